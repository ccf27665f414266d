/** What is wrong between files: two that speak for one domain are both invalid, each naming the other (product.md §2). */
import type { DesiredDomain, FileReading, Problem, SourceMark } from "./desired.ts";
import { show } from "./finding.ts";

type Speaker = { readonly file: string; readonly domain: DesiredDomain };

/** Two domains of these keys are one. */
const keysOf = ({ name, target }: DesiredDomain): readonly string[] => [
  `metadata.name ${name}`,
  target.by === "name" ? `target name ${target.name}` : `target uuid ${target.uuid}`,
];

const placeOf = ({ file, line }: SourceMark): string => `${file}:${String(line)}`;

/** @returns the same files; those that clash are bad */
export function checkTree(files: ReadonlyMap<string, FileReading>): ReadonlyMap<string, FileReading> {
  const speakers = new Map<string, Speaker[]>();
  for (const [file, reading] of files) {
    for (const domain of reading.kind === "read" ? reading.domains : []) {
      for (const key of keysOf(domain)) speakers.set(key, [...(speakers.get(key) ?? []), { file, domain }]);
    }
  }
  const problems = new Map<string, Problem[]>();
  const report = (file: string, problem: Problem): void => void problems.set(file, [...(problems.get(file) ?? []), problem]);
  for (const [key, all] of speakers) {
    if (all.length < 2 || (key.startsWith("target") && sameNames(all))) continue;
    for (const one of all)
      report(
        one.file,
        clash(
          one.domain,
          all.filter((other) => other !== one),
        ),
      );
  }
  for (const [file, reading] of files) {
    for (const name of reading.kind === "bad" ? reading.names : []) {
      for (const { file: other, domain } of speakers.get(`metadata.name ${name}`) ?? []) {
        if (other === file) continue;
        report(other, problem(domain, `the name ${show(name)} is in ${file} too, which is bad input itself; keep it in one of them`));
      }
    }
  }
  if (problems.size === 0) return files;
  return new Map([...files].map(([file, reading]) => [file, spoil(reading, problems.get(file))]));
}

/** Two with one name mostly have one target too: that is told once. */
const sameNames = (all: readonly Speaker[]): boolean => all.every(({ domain }) => domain.name === all[0]?.domain.name);

function clash(domain: DesiredDomain, others: readonly Speaker[]): Problem {
  const where = others.map((other) => placeOf(other.domain.mark)).join(", ");
  if (others.some((other) => other.domain.name === domain.name)) {
    return problem(domain, `the name ${show(domain.name)} is in ${where} too, so neither counts; keep one, or rename one`);
  }
  const { target } = domain;
  const what = target.by === "name" ? `named ${show(target.name)}` : `with uuid ${target.uuid}`;
  return problem(domain, `the domain ${what} is spoken for in ${where} too, so neither counts; put all of it in one file`);
}

const problem = (domain: DesiredDomain, message: string): Problem => ({
  ...domain.mark,
  code: "TwoFiles",
  message,
  severity: "error",
  pointer: "/metadata/name",
});

function spoil(reading: FileReading, problems: readonly Problem[] | undefined): FileReading {
  if (problems === undefined || reading.kind !== "read") return reading;
  return { kind: "bad", problems: [...reading.warnings, ...problems], names: reading.domains.map(({ name }) => name) };
}
