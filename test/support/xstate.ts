/** xstate's names for what happens inside a machine, so that tables can speak of an answer or of a time-out. For the pure `transition()`. */

/** The actor that was invoked with this id (a fixed one) resolved. The caller names the machine's event type; it is none of those, hence the cast. */
export const answer = <Event>(actorId: string, output: unknown): Event =>
  ({ type: `xstate.done.actor.${actorId}`, actorId, output }) as unknown as Event;

/** The same, rejected. */
export const rejection = <Event>(actorId: string, error: unknown): Event =>
  ({ type: `xstate.error.actor.${actorId}`, actorId, error }) as unknown as Event;

/** The delay of this name ran out in this state of this machine (`createMachine({ id })`). */
export const elapsed = <Event>(delay: string, machineId: string, state: string): Event =>
  ({ type: `xstate.after.${delay}.${machineId}.${state}` }) as unknown as Event;
