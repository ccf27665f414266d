/** Values filed under keys: what a change in the world can touch is found by key, never by a look at everything. */

export type KeyIndex<T, K = string> = {
  add(key: K, value: T): void;
  remove(key: K, value: T): void;
  /** What is filed there, in the order in which it was added. */
  get(key: K): Iterable<T>;
};

/** Most keys have one value, and a set for one costs a quarter of a KiB: there are a dozen such keys a device. */
class Several<T> extends Set<T> {}
const NONE: readonly never[] = [];

/** Values are compared by identity. Empty keys cost nothing. */
export function createKeyIndex<T, K = string>(): KeyIndex<T, K> {
  const filed = new Map<K, T | Several<T>>();
  return {
    add(key, value) {
      const there = filed.get(key);
      if (there === undefined) filed.set(key, value);
      else if (there instanceof Several) there.add(value);
      else if (there !== value) filed.set(key, new Several([there, value]));
    },
    remove(key, value) {
      const there = filed.get(key);
      if (there instanceof Several) {
        there.delete(value);
        if (there.size === 0) filed.delete(key);
      } else if (there === value) filed.delete(key);
    },
    get(key) {
      const there = filed.get(key);
      return there === undefined ? NONE : there instanceof Several ? there : [there];
    },
  };
}

/** Whether two plain values (objects, arrays, null, text, numbers) say the same. */
export function same(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Array.isArray(a) || Array.isArray(b)) {
    return Array.isArray(a) && Array.isArray(b) && a.length === b.length && a.every((value, i) => same(value, b[i]));
  }
  const left = a as Readonly<Record<string, unknown>>;
  const right = b as Readonly<Record<string, unknown>>;
  // Asked of every plan at every event: no lists of keys are made for it.
  let more = 0;
  for (const key in left) {
    if (!Object.hasOwn(right, key) || !same(left[key], right[key])) return false;
    more += 1;
  }
  for (const _ in right) more -= 1;
  return more === 0;
}
