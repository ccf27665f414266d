/** The house's layers (specs/layers.json) held against the code's imports. */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { isBuiltin } from "node:module";
import { dirname, join, normalize, relative } from "node:path";
import { cruise } from "dependency-cruiser";
import { describe, expect, test } from "vitest";

type Layer = {
  name: string;
  path: string;
  imports: string[];
  npm: string[];
  npmTypes?: string[];
  node: boolean;
  extra?: { file: string; imports: string[] }[];
};
const { layers, maxFileLines } = JSON.parse(readFileSync("specs/layers.json", "utf8")) as { layers: Layer[]; maxFileLines: number };

const sources = (dir: string): string[] =>
  readdirSync(dir).flatMap((name) => {
    const path = join(dir, name);
    return statSync(path).isDirectory() ? sources(path) : /\.tsx?$/.test(name) ? [path] : [];
  });
const files = sources("src");
const layerOf = (file: string): Layer | undefined => layers.find(({ path }) => file === path || file.startsWith(`${path}/`));

type Import = { file: string; specifier: string; typeOnly: boolean };
const importsOf = (file: string): Import[] => {
  const text = readFileSync(file, "utf8");
  const found = text.matchAll(/^(?:import|export)\s+(type\s)?[^"';]*?from\s+"([^"]+)"|^import\s+"([^"]+)"|\bimport\("([^"]+)"\)/gm);
  return [...found].map((m) => ({ file, specifier: m[2] ?? m[3] ?? m[4] ?? "", typeOnly: m[1] !== undefined }));
};
const imports = files.flatMap(importsOf);

describe("layers", () => {
  test("every source file has a layer", () => {
    expect(files.filter((file) => layerOf(file) === undefined)).toEqual([]);
  });

  test("a layer imports only what specs/layers.json lets it", () => {
    const wrong = imports.filter(({ file, specifier, typeOnly }) => {
      const layer = layerOf(file);
      if (layer === undefined) return true;
      if (specifier.startsWith(".")) {
        const target = layerOf(relative(".", normalize(join(dirname(file), specifier))));
        const extra = layer.extra?.filter((e) => e.file === file).flatMap((e) => e.imports) ?? [];
        return target === undefined || (target.name !== layer.name && ![...layer.imports, ...extra].includes(target.name));
      }
      if (isBuiltin(specifier)) return !layer.node;
      const name = specifier.startsWith("@") ? specifier.split("/").slice(0, 2).join("/") : (specifier.split("/")[0] ?? "");
      return !(layer.npm.includes(name) || (typeOnly && layer.npmTypes?.includes(name) === true));
    });
    expect(wrong.map(({ file, specifier }) => `${file} imports ${specifier}`)).toEqual([]);
  });

  test("there are no import cycles, type-only ones included", async () => {
    const { output } = await cruise(["src"], {
      ruleSet: { forbidden: [{ name: "cycle", severity: "error", from: {}, to: { circular: true } }] },
      validate: true,
      tsPreCompilationDeps: true,
      doNotFollow: { path: "node_modules" },
    });
    if (typeof output === "string") throw new Error("no result");
    expect(output.summary.violations.map((v) => `${v.from} -> ${v.to}`)).toEqual([]);
  });

  test("no file is longer than the house allows", () => {
    const long = files.filter((file) => readFileSync(file, "utf8").split("\n").length > maxFileLines);
    expect(long).toEqual([]);
  });

  test("no clock, timer or chance of the process is used outside the composition root", () => {
    const allowed = new Set(["src/app.ts", "src/model/contracts.ts"]);
    const wrong = files
      .filter((file) => !allowed.has(file) && !file.startsWith("src/sim/") && !file.startsWith("src/interfaces/"))
      .flatMap((file) =>
        readFileSync(file, "utf8")
          .split("\n")
          .flatMap((line, i) =>
            /\bDate\.now\(|\bMath\.random\(|(?<![.\w])set(?:Timeout|Interval)\(/.test(line) ? [`${file}:${String(i + 1)}`] : [],
          ),
      );
    expect(wrong).toEqual([]);
  });
});
