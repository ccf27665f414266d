/**
 * The children of a node as a value: one more or one less makes a new one and shares the most. A thousand domains are a thousand children of one
 * node, and every write below any of them makes that node anew.
 */

export type Children<T> = Iterable<readonly [name: string, child: T]> & {
  get(name: string): T | undefined;
  /** A child that is replaced keeps its place. */
  with(name: string, child: T): Children<T>;
  without(name: string): Children<T>;
};

type Entry<T> = { readonly born: number; readonly child: T };
type Bucket<T> = ReadonlyMap<string, Entry<T>>;

const BUCKETS = 64;
const EMPTY: Bucket<never> = new Map();
let births = 0;

const bucketOf = (name: string): number => {
  let hash = 7;
  for (let at = 0; at < name.length; at += 1) hash = (hash * 31 + name.charCodeAt(at)) >>> 0;
  return hash % BUCKETS;
};

/** In order of creation. */
export function noChildren<T>(): Children<T> {
  return childrenOf<T>([EMPTY]);
}

/** @param buckets - one while they are few, {@link BUCKETS} from then on */
function childrenOf<T>(buckets: readonly Bucket<T>[]): Children<T> {
  const at = (name: string): number => (buckets.length === 1 ? 0 : bucketOf(name));
  const replaced = (index: number, bucket: Bucket<T>): Children<T> =>
    buckets.length === 1 && bucket.size > BUCKETS
      ? childrenOf(scattered(bucket))
      : childrenOf(buckets.length === 1 ? [bucket] : buckets.with(index, bucket));
  return {
    get: (name) => buckets[at(name)]?.get(name)?.child,
    with(name, child) {
      const index = at(name);
      const bucket = buckets[index] ?? EMPTY;
      births += 1;
      return replaced(index, new Map(bucket).set(name, { born: bucket.get(name)?.born ?? births, child }));
    },
    without(name) {
      const index = at(name);
      const bucket = new Map(buckets[index]);
      bucket.delete(name);
      return replaced(index, bucket);
    },
    *[Symbol.iterator]() {
      if (buckets.length === 1) for (const [name, { child }] of buckets[0] ?? EMPTY) yield [name, child] as const;
      else {
        const all = buckets.flatMap((bucket) => [...bucket]).sort(([, a], [, b]) => a.born - b.born);
        for (const [name, { child }] of all) yield [name, child] as const;
      }
    },
  };
}
function scattered<T>(bucket: Bucket<T>): Bucket<T>[] {
  const buckets = Array.from({ length: BUCKETS }, () => new Map<string, Entry<T>>());
  for (const [name, entry] of bucket) buckets[bucketOf(name)]?.set(name, entry);
  return buckets;
}
