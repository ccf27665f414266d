/** Values filed under keys: what a change in the world can touch is found by key, never by a look at everything. */

type KeyIndex<T> = {
  add(key: string, value: T): void;
  remove(key: string, value: T): void;
  get(key: string): ReadonlySet<T>;
};

const NONE: ReadonlySet<never> = new Set();

/** Values are compared by identity. Empty keys cost nothing. */
export function createKeyIndex<T>(): KeyIndex<T> {
  const filed = new Map<string, Set<T>>();
  return {
    add(key, value) {
      const values = filed.get(key);
      if (values === undefined) filed.set(key, new Set([value]));
      else values.add(value);
    },
    remove(key, value) {
      const values = filed.get(key);
      if (values === undefined) return;
      values.delete(value);
      if (values.size === 0) filed.delete(key);
    },
    get: (key) => filed.get(key) ?? NONE,
  };
}

/** Whether two plain values (objects, arrays, null, text, numbers) say the same. */
export function same(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Array.isArray(a) || Array.isArray(b)) {
    return Array.isArray(a) && Array.isArray(b) && a.length === b.length && a.every((value, i) => same(value, b[i]));
  }
  const left = Object.entries(a);
  const right = b as Readonly<Record<string, unknown>>;
  return left.length === Object.keys(b).length && left.every(([key, value]) => Object.hasOwn(right, key) && same(value, right[key]));
}
