/**
 * Host devices in domain configurations of `xl`: lines `usbdev=[…]` and `usbdevice=…`, with where they stand. Not a reader of whole configurations.
 * Source: xen, docs/man/xl.cfg.5.pod.in, tools/libs/util/libxlu_cfg_l.l (strings in either quote, `#` to the end of the line),
 * tools/xl/xl_parse.c (parse_usbdev_config: numbers as strtoul takes them, with any base).
 */
export type ConfiguredDevice = {
  readonly line: number;
  readonly key: "usbdev" | "usbdevice";
  /** What stands between the quotes. */
  readonly text: string;
  /** null: not named so, or no number. */
  readonly bus: number | null;
  readonly address: number | null;
};

const MAX_FOUND = 256;
const KEY = /^\s*(usbdev|usbdevice)\s*=\s*/;

/** @returns devices of the host; `usbdevice` of other kinds (a tablet) is left out */
export function parseConfiguredDevices(text: string): readonly ConfiguredDevice[] {
  const found: ConfiguredDevice[] = [];
  let key: ConfiguredDevice["key"] | null = null;
  let inList = false;
  text.split("\n").forEach((line, i) => {
    let rest = line;
    if (!inList) {
      const begun = KEY.exec(line);
      key = (begun?.[1] as ConfiguredDevice["key"] | undefined) ?? null;
      rest = begun === null ? "" : line.slice(begun[0].length);
    }
    if (key === null) return;
    for (const [token, double, single] of rest.matchAll(/"([^"]*)"|'([^']*)'|#.*|[[\]]/g)) {
      if (token.startsWith("#")) break;
      if (token === "[") inList = true;
      else if (token === "]") inList = false;
      else {
        const device = deviceOf(key, double ?? single ?? "", i + 1);
        if (device !== null && found.length < MAX_FOUND) found.push(device);
      }
    }
  });
  return found;
}

function deviceOf(key: ConfiguredDevice["key"], text: string, line: number): ConfiguredDevice | null {
  if (key === "usbdevice") return text.startsWith("host:") ? { line, key, text, bus: null, address: null } : null;
  const value = (name: string): number | null => {
    const part = text.split(",").find((one) => one.trimStart().startsWith(`${name}=`));
    return part === undefined ? null : toNumber(part.slice(part.indexOf("=") + 1).trim());
  };
  return { line, key, text, bus: value("hostbus"), address: value("hostaddr") };
}
/** As strtoul with base 0: `010` is 8, `0x10` is 16. */
function toNumber(text: string): number | null {
  if (/^0[xX][0-9a-fA-F]{1,6}$/.test(text)) return Number.parseInt(text, 16);
  if (/^0[0-7]{0,6}$/.test(text)) return Number.parseInt(text, 8);
  return /^[1-9]\d{0,6}$/.test(text) ? Number(text) : null;
}
