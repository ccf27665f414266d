/** Reads values of unknown shape: every problem is collected with its path, nothing is guessed. */

export type Path = readonly (string | number)[];
export type Complain = (path: Path, what: string) => void;
/** @returns the value read, or undefined after a complaint */
export type Reader<T> = (value: unknown, path: Path, complain: Complain) => T | undefined;
type ValueOf<R> = R extends Reader<infer T> ? T : never;

const isMapping = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** @param what - says which values do */
export const simple =
  <T>(is: (value: unknown) => value is T, what: string): Reader<T> =>
  (value, path, complain) => {
    if (is(value)) return value;
    complain(path, `must be ${what}`);
    return undefined;
  };

export const text: Reader<string> = simple((value) => typeof value === "string", "a text");
export const flag: Reader<boolean> = simple((value) => typeof value === "boolean", "true or false");
export const yes: Reader<true> = simple((value) => value === true, "true");
export const count: Reader<number> = simple(
  (value): value is number => typeof value === "number" && Number.isInteger(value) && value >= 0,
  "a whole number, 0 or more",
);
/** A text that fits the pattern. @param what - says which texts do */
export const matching = (pattern: RegExp, what: string): Reader<string> =>
  simple((value): value is string => typeof value === "string" && pattern.test(value), what);
export const oneOf = <const T extends string>(...names: readonly T[]): Reader<T> =>
  simple((value): value is T => names.some((name) => name === value), `one of ${names.join(", ")}`);

/** The first reader that finds no fault; else the last one's complaints. */
export const either =
  <A, B>(first: Reader<A>, second: Reader<B>): Reader<A | B> =>
  (value, path, complain) => {
    let good = true;
    const read = first(value, path, () => {
      good = false;
    });
    return good ? read : second(value, path, complain);
  };
export const mapped =
  <A, B>(reader: Reader<A>, change: (value: A) => B): Reader<B> =>
  (value, path, complain) => {
    const read = reader(value, path, complain);
    return read === undefined ? undefined : change(read);
  };

export const listOf =
  <T>(item: Reader<T>): Reader<readonly T[]> =>
  (value, path, complain) => {
    if (Array.isArray(value))
      return value.flatMap((one: unknown, index) => {
        const read = item(one, [...path, index], complain);
        return read === undefined ? [] : [read];
      });
    complain(path, "must be a list");
    return undefined;
  };
/** A mapping with keys of any name. */
export const mapOf =
  <T>(item: Reader<T>): Reader<Readonly<Record<string, T>>> =>
  (value, path, complain) => {
    if (!isMapping(value)) {
      complain(path, "must be a mapping");
      return undefined;
    }
    return Object.fromEntries(
      Object.entries(value).flatMap(([key, one]) => {
        const read = item(one, [...path, key], complain);
        return read === undefined ? [] : [[key, read] as const];
      }),
    );
  };
/** A mapping of any content. */
export const anyMapping: Reader<Readonly<Record<string, unknown>>> = simple(isMapping, "a mapping");

type Readers = Readonly<Record<string, Reader<unknown>>>;
type Required_<R> = { readonly [K in keyof R]: ValueOf<R[K]> };
type Optional<R> = { readonly [K in keyof R]?: ValueOf<R[K]> };

/** A mapping with these keys only: all of `needed`, any of `allowed`. */
export const record =
  <N extends Readers, A extends Readers>(needed: N, allowed: A): Reader<Required_<N> & Optional<A>> =>
  (value, path, complain) => {
    if (!isMapping(value)) {
      complain(path, `must be a mapping with ${Object.keys({ ...needed, ...allowed }).join(", ")}`);
      return undefined;
    }
    const read: Record<string, unknown> = {};
    let whole = true;
    for (const key of Object.keys(needed)) {
      if (key in value) continue;
      complain(path, `needs "${key}"`);
      whole = false;
    }
    for (const [key, one] of Object.entries(value)) {
      const reader = needed[key] ?? allowed[key];
      if (reader === undefined) {
        complain([...path, key], `is unknown; known are ${Object.keys({ ...needed, ...allowed }).join(", ")}`);
        continue;
      }
      const result = reader(one, [...path, key], complain);
      if (result === undefined) whole = false;
      else read[key] = result;
    }
    return whole ? (read as Required_<N> & Optional<A>) : undefined;
  };
