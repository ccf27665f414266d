/** Every duration of the program in milliseconds, with its reason. Tests hand in smaller ones. */
export type Timings = {
  /** A file written in place is read once it has not changed for this long (product.md §2). */
  readonly fileSettleMs: number;
  /** A file that vanished is a decision after this long; the same name coming up elsewhere meanwhile is a move. */
  readonly vanishMs: number;
  /** Connect, greeting, negotiation of a monitor (facts/qmp.md J.2). */
  readonly connectMs: number;
  readonly greetingMs: number;
  /** One QMP command. QEMU answers in under a millisecond; one that resets a device took 0.36 s at most on the testbed. */
  readonly commandMs: number;
  /** One attach or detach as a whole, controller included. */
  readonly actionMs: number;
  /** Backoff of a claim: ceiling doubles from base to max, the app draws below it (full jitter). */
  readonly backoffBaseMs: number;
  readonly backoffMaxMs: number;
  /** Reconnect of a monitor: the same shape. */
  readonly reconnectBaseMs: number;
  readonly reconnectMaxMs: number;
  /** Full listing of every domain and re-read of the host; the one slow timer (product.md §8). */
  readonly auditMs: number;
  /** Long work lets the event loop have its turn after so long; half a dozen of these are the longest pause (product.md §8). */
  readonly sliceMs: number;
  /** Interfaces come a moment after the node: re-read after 1, 2, 4 … ms until complete, this long at most. */
  readonly hostSettleMs: number;
  /** More than this many disconnects of one claim within the window is Flapping, until it has stayed for the hold-off. */
  readonly flapWindowMs: number;
  readonly flapCount: number;
  readonly flapHoldMs: number;
  /** Somebody else undid a claim this many times within the window: Contested. */
  readonly contestWindowMs: number;
  readonly contestCount: number;
  /** A logical device that changes its ids (anyOf) may be away this long and is ReEnumerating. */
  readonly reEnumerateMs: number;
  /** A device that comes back at the same busid within this time with another identity is quarantined. */
  readonly identityMs: number;
  /** QEMU finds a device but cannot open it: tries before OpenRefused. */
  readonly openTries: number;
  /** Waits inside one attach while QEMU's libusb does not list the device yet; it learns of devices from udev, some ms after the kernel. */
  readonly findRetriesMs: readonly number[];
  /** A xenstore transaction that meets others is tried so often, each time after up to so long times the tries made. */
  readonly transactionTries: number;
  readonly transactionBackoffMs: number;
  /** One `xl list -v`; it took some 30 ms on the testbed, and asks the hypervisor once a domain. */
  readonly xlMs: number;
  /** Wait for a lock of libxl's; libxl gives a QMP command 10 s, and holds the lock as long (libxl_internal.h, LIBXL_QMP_CMD_TIMEOUT). */
  readonly libxlLockMs: number;
  /** Wait for a new paravirtual controller's backend (libxl_internal.h, LIBXL_INIT_TIMEOUT). */
  readonly backendMs: number;
  /** Wait for QEMU's paravirtual backend to follow a port's record; it took 0.3 s at most on the testbed. */
  readonly qusbMs: number;
  /** A record and its object that disagree are judged once they have stayed so; `xl` was seen to take 0.4 s between the two. */
  readonly recordSettleMs: number;
  /** A controller's record without a controller is waited for so long from its last change, before another is made. */
  readonly phantomMs: number;
  /** One write to a driver's `bind` or `unbind`: the kernel answers once the driver has probed or let go of the interface, a slow disk's after seconds. */
  readonly driverMs: number;
  /** One command to a qemu-traditional, and before it the wait for its state; xend waited as long for it (tools/python/xen/xend/image.py). */
  readonly dmCommandMs: number;
  /** A domain whose system writes its own nodes is looked at so often at most: it may write without end. */
  readonly guestEventMs: number;
  /** Default length of an operator's hold. */
  readonly holdMs: number;
};

export const defaultTimings: Timings = {
  fileSettleMs: 100,
  vanishMs: 5_000,
  connectMs: 1_000,
  greetingMs: 2_000,
  commandMs: 5_000,
  actionMs: 15_000,
  backoffBaseMs: 100,
  backoffMaxMs: 30_000,
  reconnectBaseMs: 50,
  reconnectMaxMs: 5_000,
  auditMs: 30_000,
  sliceMs: 8,
  hostSettleMs: 500,
  flapWindowMs: 10_000,
  flapCount: 10,
  flapHoldMs: 3_000,
  contestWindowMs: 600_000,
  contestCount: 3,
  reEnumerateMs: 30_000,
  identityMs: 2_000,
  openTries: 5,
  findRetriesMs: [20, 50, 100],
  transactionTries: 10,
  transactionBackoffMs: 5,
  xlMs: 10_000,
  libxlLockMs: 12_000,
  backendMs: 10_000,
  qusbMs: 3_000,
  recordSettleMs: 1_000,
  phantomMs: 10_000,
  driverMs: 10_000,
  dmCommandMs: 10_000,
  guestEventMs: 50,
  holdMs: 3_600_000,
};
