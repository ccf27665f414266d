/** The compiler writes no file modes: the command must be one that a shell can run. */
import { chmodSync } from "node:fs";

chmodSync("dist/interfaces/cli/main.js", 0o755);
