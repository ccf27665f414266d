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
