/**
 * Sets a fresh clone up: installs the locked dependencies when they are missing or not the ones of package-lock.json. Quick when all is well.
 * What `npm start`, `npm test`, `npm run e2e` and the like begin with.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";

const NODE = [20, 19];

/** @param {string} path */
const packagesOf = (path) => {
  try {
    return JSON.parse(readFileSync(path, "utf8")).packages ?? {};
  } catch {
    return null;
  }
};

const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
if (major < NODE[0] || (major === NODE[0] && minor < NODE[1])) {
  process.stderr.write(`plugherd needs Node ${NODE.join(".")} or newer; this is ${process.versions.node}\n`);
  process.exit(1);
}

const locked = packagesOf("package-lock.json");
const installed = packagesOf("node_modules/.package-lock.json");
const stale =
  installed === null ||
  Object.entries(locked ?? {}).some(
    ([path, entry]) =>
      path !== "" &&
      entry.optional !== true &&
      !(entry.integrity === installed[path]?.integrity && entry.version === installed[path]?.version),
  );
if (stale) {
  process.stdout.write("installing the dependencies of package-lock.json\n");
  const done = spawnSync("npm", ["ci", "--loglevel=error", "--no-progress"], { stdio: ["ignore", "inherit", "inherit"] });
  if (done.status !== 0) {
    process.stderr.write("npm ci failed; see above\n");
    process.exit(1);
  }
}
