/** Directories on the test host that harness, domains and scripts agree on. */

/** Witnesses' monitors, QEMU's traces, consoles, pid files. */
export const WITNESS = "/run/witness";
/** Where xenconsoled logs what PV and PVH guests write. */
export const CONSOLES = "/var/log/xen/console";
/** Domains' configurations. */
export const CONFIGS = "/run/witness/cfg";
/** The scripts of test/e2e/guest, as they came with the program. */
export const SCRIPTS = "/opt/plugherd/test/e2e/guest";
