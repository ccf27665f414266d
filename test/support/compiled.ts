/** A source file and what it imports, compiled into a directory, for child processes: Node 20 runs no TypeScript. */
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import ts from "typescript";

/**
 * @param entry - path of a .ts file below the project's root
 * @param dir - an empty directory
 * @returns path of the .js file to import
 */
export function compileInto(dir: string, entry: string): string {
  const root = resolve(".");
  const done = new Set<string>();
  const place = (file: string): string => join(dir, relative(root, file)).replace(/\.ts$/, ".js");
  const compile = (file: string): void => {
    if (done.has(file)) return;
    done.add(file);
    const source = readFileSync(file, "utf8");
    const { outputText } = ts.transpileModule(source, {
      compilerOptions: {
        target: ts.ScriptTarget.ES2023,
        module: ts.ModuleKind.ESNext,
        verbatimModuleSyntax: true,
        rewriteRelativeImportExtensions: true,
      },
    });
    mkdirSync(dirname(place(file)), { recursive: true });
    writeFileSync(place(file), outputText);
    for (const [, specifier] of outputText.matchAll(/from "(\.[^"]+)\.js"/g)) compile(resolve(dirname(file), `${specifier ?? ""}.ts`));
  };
  compile(resolve(entry));
  writeFileSync(join(dir, "package.json"), '{ "type": "module" }');
  symlinkSync(join(root, "node_modules"), join(dir, "node_modules"));
  return place(resolve(entry));
}
