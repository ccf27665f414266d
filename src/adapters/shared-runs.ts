/** Those who want the same thing done at the same time share one doing of it. */
export type SharedRuns<T> = (key: string, run: () => Promise<T>) => Promise<T>;

export function createSharedRuns<T>(): SharedRuns<T> {
  const under = new Map<string, Promise<T>>();
  return (key, run) => {
    let one = under.get(key);
    if (one === undefined) {
      one = run().finally(() => under.delete(key));
      under.set(key, one);
    }
    return one;
  };
}
