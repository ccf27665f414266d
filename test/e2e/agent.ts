/** Client of the agent in the test host (testbed/overlay/lab/agent): scripts, files, and pipes to its unix sockets. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";

export type Ran = { readonly rc: number; readonly out: string };

const MAX_OUTPUT_BYTES = 16 << 20;
const END = /\n@@RC=(\d+)\n$/;

export type Agent = {
  /** Runs a bash script; output is stdout and stderr together. Rejects when the agent cannot be reached or the time is up. */
  run(script: string, timeoutMs?: number): Promise<Ran>;
  /** Unpacks a tar archive in a directory of the host. */
  put(dir: string, tar: Buffer): Promise<void>;
  /** A connection to a unix socket of the host. */
  pipe(path: string): Promise<Socket>;
};

/** @param port - the loopback port that is forwarded to the agent */
export function createAgent(port: number): Agent {
  const dial = async (): Promise<Socket> => {
    const socket = connect({ host: "127.0.0.1", port });
    // A host that is just coming up resets connections at any moment; who reads sees the close.
    socket.on("error", () => undefined);
    await once(socket, "connect");
    return socket;
  };
  const job = async (head: string, body: Buffer, timeoutMs: number): Promise<Ran> => {
    const socket = await dial();
    const chunks: Buffer[] = [];
    let size = 0;
    return new Promise<Ran>((resolve, reject) => {
      const finish = (act: () => void): void => {
        clearTimeout(timer);
        socket.destroy();
        act();
      };
      const timer = setTimeout(() => {
        const shown = Buffer.concat(chunks).toString("utf8").slice(-2_000);
        finish(() => {
          reject(new Error(`the host did not finish in ${String(timeoutMs)} ms: ${body.toString("utf8").slice(0, 200)}\n${shown}`));
        });
      }, timeoutMs);
      // A daemon that the script started may keep the connection: the end is the line, not the close.
      socket.on("data", (chunk: Buffer) => {
        chunks.push(chunk);
        size += chunk.length;
        if (size > MAX_OUTPUT_BYTES) {
          finish(() => {
            reject(new Error("a script of the test printed too much"));
          });
          return;
        }
        const tail = (chunk.length >= 32 ? chunk : Buffer.concat(chunks)).subarray(-32).toString("latin1");
        const end = END.exec(tail);
        if (end === null) return;
        const out = Buffer.concat(chunks).toString("utf8");
        finish(() => {
          resolve({ rc: Number(end[1]), out: out.slice(0, out.lastIndexOf("\n@@RC=")) });
        });
      });
      socket.on("error", (error) => {
        finish(() => {
          reject(new Error(`the host's agent, ${head.trim()}: ${error.message}`));
        });
      });
      socket.on("close", () => {
        finish(() => {
          reject(new Error("the host's agent closed the connection"));
        });
      });
      socket.write(head);
      socket.write(body);
    });
  };
  return {
    run: (script, timeoutMs = 120_000) => {
      const body = Buffer.from(`${script}\n`);
      return job(`RUN ${String(body.length)}\n`, body, timeoutMs);
    },
    put: async (dir, tar) => {
      const { rc, out } = await job(`PUT ${String(tar.length)} ${dir}\n`, tar, 180_000);
      if (rc !== 0) throw new Error(`could not unpack in ${dir}: ${out}`);
    },
    pipe: async (path) => {
      const socket = await dial();
      socket.write(`PIPE 0 ${path}\n`);
      return socket;
    },
  };
}
