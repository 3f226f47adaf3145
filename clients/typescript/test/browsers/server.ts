import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, connect, type Socket, type Server as Listener, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const TENANT = '11111111-1111-4111-8111-111111111111';

export async function until(holds: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadline = Date.now() + 90_000;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`not in 90 seconds: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Two ports that nobody has; both are held until both are known, or they could be the same. */
async function freePorts(): Promise<[number, number]> {
  const free = async () => {
    const listener = createServer();
    await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
    return { listener, port: (listener.address() as AddressInfo).port };
  };
  const [one, other] = [await free(), await free()];
  for (const { listener } of [one, other]) await new Promise((resolve) => listener.close(resolve));
  return [one.port, other.port];
}

/** The real server, in a folder of its own. */
export class Tidings {
  readonly #folder = mkdtempSync(join(tmpdir(), 'tidings-client-'));
  readonly #secret = randomBytes(32).toString('base64');
  #child: ChildProcess | undefined;
  #publisher = '';
  #operator: string | undefined;
  readonly #binary = process.env['TIDINGS_BIN'];
  /** Others after every start. */
  port = 0;
  adminPort = 0;
  published = 0;

  private constructor(
    readonly pageOrigin: string,
    readonly more: Readonly<Record<string, string>>,
  ) {}

  static async start(pageOrigin: string, more: Readonly<Record<string, string>> = {}): Promise<Tidings> {
    const server = new Tidings(pageOrigin, more);
    await server.start();
    server.#publisher = server.token('publisher');
    return server;
  }

  #environment(): NodeJS.ProcessEnv {
    return {
      PATH: process.env['PATH'],
      TIDINGS_LISTEN: `127.0.0.1:${this.port}`,
      TIDINGS_ADMIN_LISTEN: `127.0.0.1:${this.adminPort}`,
      TIDINGS_AUTH__JWT__SECRET: this.#secret,
      TIDINGS_LOG__PATH: join(this.#folder, 'log'),
      TIDINGS_CORS__ORIGINS: this.pageOrigin,
      TIDINGS_STREAM__HEARTBEAT: '1s',
      ...this.more,
    };
  }

  token(role: string, lifetime = '1h'): string {
    const tenant = role === 'super_admin' ? [] : ['--tenant', TENANT];
    return execFileSync(this.#path(), ['token', ...tenant, '--role', role, '--lifetime', lifetime], {
      env: this.#environment(),
      encoding: 'utf8',
    }).trim();
  }

  #path(): string {
    if (this.#binary === undefined) throw new Error('TIDINGS_BIN must name the server to test against');
    return this.#binary;
  }

  async start(): Promise<void> {
    for (let left = 5; left > 0; left--) {
      [this.port, this.adminPort] = await freePorts();
      if (await this.#begin()) return;
    }
    throw new Error('the server ends before it is ready, whatever its ports');
  }

  /** Starts the server; false where it ends, as where somebody has taken a port meanwhile. */
  async #begin(): Promise<boolean> {
    const child = (this.#child = spawn(this.#path(), ['serve'], {
      env: this.#environment(),
      stdio: 'ignore',
      cwd: this.#folder,
    }));
    await until(async () => {
      if (child.exitCode !== null) return true;
      const answer = await fetch(`http://127.0.0.1:${this.adminPort}/readyz`).catch(() => undefined);
      return answer?.ok ?? false;
    }, 'the server is ready');
    return child.exitCode === null;
  }

  /** Ends the process as a crash would. */
  async kill(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null) return;
    const over = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await over;
  }

  /** Publishes so many events, numbered on; `device` names whose each is. */
  async publish(count: number, device: (number: number) => string = () => 'r1'): Promise<void> {
    const lines = Array.from({ length: count }, () => {
      const number = ++this.published;
      return JSON.stringify({
        type: 'device_status',
        device_id: device(number),
        data: { number, status: 'online' },
      });
    });
    const answer = await fetch(`http://127.0.0.1:${this.port}/tenants/${TENANT}/events`, {
      method: 'POST',
      headers: { 'content-type': 'application/x-ndjson', authorization: `Bearer ${this.#publisher}` },
      body: lines.join('\n'),
    });
    if (!answer.ok) throw new Error(await answer.text());
  }

  async streams(): Promise<number> {
    return (await this.#streams()).length;
  }

  async #streams(): Promise<{ connection_id: string }[]> {
    const answer = await fetch(`http://127.0.0.1:${this.port}/streams`, { headers: this.#headers() });
    return ((await answer.json()) as { streams: { connection_id: string }[] }).streams;
  }

  /** Ends all streams, as an operator does. */
  async disconnectAll(): Promise<void> {
    const headers = this.#headers();
    for (const { connection_id } of await this.#streams())
      await fetch(`http://127.0.0.1:${this.port}/streams/${connection_id}`, { method: 'DELETE', headers });
  }

  /** An operator's; the token is made once, since that takes a process. */
  #headers(): Record<string, string> {
    this.#operator ??= this.token('super_admin');
    return { authorization: `Bearer ${this.#operator}` };
  }

  /** Loses all events; only while the process is dead. */
  loseLog(): void {
    rmSync(join(this.#folder, 'log'), { recursive: true });
  }

  async stop(): Promise<void> {
    await this.kill();
    rmSync(this.#folder, { recursive: true });
  }
}

/** Stands between the browser and the server, and breaks what passes. */
export class FaultyProxy {
  readonly #listener: Listener;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  /** Bytes to the browser after which a connection is cut; the next has none. */
  cutAfter = Infinity;
  /** Whether nothing reaches the browser, though its connections stay open. */
  isStalled = false;
  /** What reached the browser, byte for byte. */
  passed = '';
  /** Milliseconds by which every piece is late. */
  delay = 0;

  constructor(toPort: () => number) {
    this.#listener = createServer((browser) => {
      const server = connect(toPort(), '127.0.0.1');
      const pair = [browser, server] as const;
      this.#pairs.add(pair);
      let left = this.cutAfter;
      this.cutAfter = Infinity;
      const end = () => {
        browser.destroy();
        server.destroy();
        this.#pairs.delete(pair);
      };
      browser.on('error', end).on('close', end);
      server.on('error', end).on('close', end);
      browser.on('data', (piece) => server.write(piece));
      server.on('data', (piece) => {
        if (this.isStalled) return;
        this.passed += piece.toString('latin1');
        const pass = () => {
          browser.write(piece.subarray(0, left));
          left -= piece.length;
          // What stands before the cut must arrive, or the cut would be somewhere else.
          if (left <= 0) browser.end(() => browser.resetAndDestroy());
        };
        if (this.delay > 0) setTimeout(pass, this.delay);
        else pass();
      });
    });
  }

  async listen(): Promise<number> {
    await new Promise<void>((resolve) => this.#listener.listen(0, '127.0.0.1', resolve));
    return (this.#listener.address() as AddressInfo).port;
  }

  cutAll(): void {
    for (const [browser] of this.#pairs) browser.resetAndDestroy();
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#listener.close(resolve));
    this.cutAll();
    await closed;
  }
}
