/**
 * One stream for all tabs of a browser.
 *
 * @packageDocumentation
 */
import type { Message } from './events.js';
import { MessageQueue } from './queue.js';
import { type Connection, type Handlers, type StreamOptions, TidingsStream } from './stream.js';
import { silence } from './wait.js';

/** What a shared stream follows. */
export interface SharedOptions extends StreamOptions {
  /**
   * What tabs share a stream by. It must be the same only where the login and what is asked for are the same: what one
   * tab may see, all tabs of the name see.
   */
  readonly name: string;
}

/**
 * What the leading tab tells the others. A term is one tab's lead; its messages come in the stream's order. Until a new
 * leader's line tells otherwise, `connection` is how it stood before: only `isOpen` says whether there is a line.
 */
type Word =
  | { word: 'lead'; term: string; cursor: string | undefined; connection: Connection; isOpen: boolean }
  | { word: 'message'; term: string; message: Message; cursor: string | undefined }
  | { word: 'connection'; term: string; connection: Connection; isOpen: boolean }
  | { word: 'alive'; term: string; isOpen: boolean }
  | { word: 'hello' };

/**
 * A stream that one tab reads and the others are told, with the same iteration as {@link TidingsStream}.
 *
 * Cursors can't be compared, only found equal. So a tab that joins, or finds that a new leader did not begin where it
 * stands itself, reads a stream of its own from its own cursor (the *bridge*) while it notes what the leader tells. At
 * the first cursor that is in both, everything after it is the same in both: it goes on with the leader's and closes
 * the bridge. Nothing is lost or repeated, whatever was on its way when a leader went.
 *
 * Where a browser has no Web Locks or no BroadcastChannel, every tab has its own stream.
 */
export class SharedStream implements AsyncIterable<Message> {
  readonly #options: SharedOptions;
  readonly #handlers: Handlers;
  readonly #messages = new MessageQueue();
  readonly #end = new AbortController();
  readonly #channel: BroadcastChannel | undefined;
  /** The stream of this tab's own: it leads, or bridges. */
  #own: TidingsStream | undefined;
  /** This tab's lead, where it leads. */
  #term: string | undefined;
  #letGo: (() => void) | undefined;
  #waiting: AbortController | undefined;
  /** Whose words count. */
  #leader: string | undefined;
  /** What the leader told since the bridge was begun; `undefined` where there is no bridge. */
  #noted: Noted | undefined;
  /** The cursor of the last message that this tab was given. */
  #given: string | undefined;
  #connection: Connection = { state: 'connecting', since: Date.now() };
  /** Ends the wait for a leader that says nothing. */
  #rest = (): void => undefined;
  #isFrozen = false;

  constructor(options: SharedOptions, handlers: Handlers = {}) {
    this.#options = options;
    this.#handlers = handlers;
    this.#given = options.cursor;
    this.#channel = canShare() ? new BroadcastChannel(`tidings:${options.name}`) : undefined;
  }

  /** How it stands with the line: the leader's, or the tab's own. */
  get connection(): Connection {
    return this.#connection;
  }

  /** Whether this tab reads the stream that it shows: it leads, or has not joined yet. */
  get readsItself(): boolean {
    return this.#own !== undefined;
  }

  /** Ends this tab's part; another tab leads on. */
  close(): void {
    if (this.#end.signal.aborted) return;
    this.#end.abort();
    this.#rest();
    this.#leave();
    this.#channel?.close();
    this.#become({ state: 'closed', since: Date.now() });
    this.#messages.end();
  }

  /** The messages, in order, until the stream is closed. Throws what no attempt can mend. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Message, void, undefined> {
    const { signal } = this.#options;
    const close = () => {
      this.close();
    };
    if (signal?.aborted) close();
    signal?.addEventListener('abort', close, { signal: this.#end.signal });
    this.#begin();
    try {
      yield* this.#messages;
    } finally {
      this.close();
    }
  }

  #begin(): void {
    if (this.#end.signal.aborted) return;
    const { signal } = this.#end;
    this.#bridge();
    if (this.#channel === undefined) return;
    this.#channel.addEventListener('message', (event: MessageEvent<Word>) => {
      this.#hear(event.data);
    });
    this.#say({ word: 'hello' });
    this.#stand();
    this.#listen();
    // A page that the browser stops must not hold the line for the others.
    const freeze = () => {
      this.#isFrozen = true;
      this.#rest();
      this.#leave();
    };
    const thaw = () => {
      if (!this.#isFrozen || signal.aborted) return;
      this.#isFrozen = false;
      this.#bridge();
      this.#say({ word: 'hello' });
      this.#stand();
      this.#listen();
    };
    const page: Partial<Pick<Window, 'document' | 'addEventListener'>> = globalThis;
    page.document?.addEventListener('freeze', freeze, { signal });
    page.document?.addEventListener('resume', thaw, { signal });
    page.addEventListener?.('pagehide', freeze, { signal });
    page.addEventListener?.('pageshow', thaw, { signal });
  }

  /** Waits for the lead, or takes it from a tab that says nothing any more. */
  #stand(steal = false): void {
    this.#waiting?.abort();
    const waiting = (this.#waiting = new AbortController());
    const options: LockOptions = steal ? { steal } : { signal: waiting.signal };
    const lead = () =>
      new Promise<void>((letGo) => {
        if (this.#end.signal.aborted || this.#isFrozen) letGo();
        else this.#lead(letGo);
      });
    navigator.locks.request(`tidings:${this.#options.name}`, options, lead).catch(() => {
      // The lead was taken from this tab, or it gave up waiting. It stands behind the new leader.
      const led = this.#term !== undefined && this.#waiting === waiting;
      if (led) this.#term = undefined;
      if (led && !this.#end.signal.aborted && !this.#isFrozen) {
        this.#noted = new Noted();
        this.#say({ word: 'hello' });
        this.#stand();
        this.#listen();
      }
    });
  }

  #lead(letGo: () => void): void {
    this.#letGo = letGo;
    this.#term = this.#leader = crypto.randomUUID();
    this.#rest();
    // A bridge becomes the stream of all; else one begins where this tab stands.
    this.#noted = undefined;
    if (this.#own === undefined) this.#open();
    this.#announce();
    const term = this.#term;
    const tell = setInterval(() => {
      if (this.#term === term) this.#say({ word: 'alive', term, isOpen: this.#isOpen });
      else clearInterval(tell);
    }, this.#heartbeat() / 3);
  }

  #announce(): void {
    if (this.#term === undefined) return;
    const [cursor, connection] = [this.#given, this.#connection];
    this.#say({ word: 'lead', term: this.#term, cursor, connection, isOpen: this.#isOpen });
  }

  /** Gives up the lead and the tab's own stream. */
  #leave(): void {
    this.#waiting?.abort();
    this.#waiting = undefined;
    this.#term = undefined;
    this.#own?.close();
    this.#own = undefined;
    this.#letGo?.();
    this.#letGo = undefined;
  }

  #bridge(): void {
    this.#noted = new Noted();
    if (this.#own === undefined) this.#open();
  }

  #open(): void {
    const own: TidingsStream = new TidingsStream(
      { ...this.#options, cursor: this.#given, signal: this.#end.signal },
      {
        ...this.#handlers,
        connection: (connection) => {
          if (this.#own !== own || connection.state === 'closed') return;
          this.#become(connection);
          const [term, isOpen] = [this.#term, this.#isOpen];
          if (term !== undefined) this.#say({ word: 'connection', term, connection, isOpen });
        },
      },
    );
    this.#own = own;
    void this.#pump(own);
  }

  async #pump(own: TidingsStream): Promise<void> {
    try {
      for await (const message of own) {
        if (this.#own !== own) return;
        await this.#give(message, cursorOf(message));
        if (this.#own !== own) return;
        this.#meet();
      }
    } catch (error) {
      if (this.#own !== own) return;
      this.#messages.fail(error instanceof Error ? error : new Error(String(error)));
      this.close();
    }
  }

  #hear(said: Word): void {
    if (this.#end.signal.aborted || this.#isFrozen) return;
    if (said.word === 'hello') {
      this.#announce();
      return;
    }
    // What a leader of before still had to say is not for this tab: another term has begun.
    if (this.#term !== undefined || (said.word !== 'lead' && said.term !== this.#leader)) return;
    // Over HTTP/1.1 tabs that bridge can hold all connections that a browser opens, and the leader waits for one of them
    // for ever: to a tab that has a line, what one without says is no sign of life.
    if (said.word === 'message' || said.isOpen || !this.#isOpen) this.#listen();
    switch (said.word) {
      case 'lead':
        this.#follow(said.term, said.cursor);
        if (this.#own === undefined) this.#become(said.connection);
        break;
      case 'connection':
        if (this.#own === undefined) this.#become(said.connection);
        break;
      case 'message':
        // A channel waits for nobody: who can't follow reads at its own pace, from what it was given last.
        if (this.#noted === undefined && this.#messages.length >= MOST_WAITING) this.#bridge();
        if (this.#noted === undefined) void this.#give(said.message, said.cursor);
        else {
          this.#noted.push(said);
          this.#meet();
        }
        break;
      case 'alive':
        break;
    }
  }

  #follow(term: string, cursor: string | undefined): void {
    const isNew = this.#leader !== term;
    this.#leader = term;
    if (isNew && this.#noted !== undefined) this.#noted = new Noted();
    const isHere = cursor !== undefined && cursor === this.#given;
    if (this.#noted !== undefined && isHere) this.#join([]);
    else if (this.#noted === undefined && isNew && !isHere) this.#bridge();
  }

  /** Joins the leader where what was given last is what the leader told at some point. */
  #meet(): void {
    if (this.#noted === undefined || this.#given === undefined) return;
    const rest = this.#noted.after(this.#given);
    if (rest === undefined) return;
    this.#join(rest);
    // How it stands with the line is the leader's to say now.
    this.#say({ word: 'hello' });
  }

  #join(rest: readonly Told[]): void {
    this.#noted = undefined;
    this.#own?.close();
    this.#own = undefined;
    for (const { message, cursor } of rest) void this.#give(message, cursor);
  }

  #give(message: Message, cursor: string | undefined): Promise<void> {
    // What came before a snapshot is void, and so is the cursor: whoever leads on before the end begins with another.
    if (message.kind === 'snapshot_begin') this.#given = undefined;
    this.#given = cursor ?? this.#given;
    if (this.#term !== undefined) this.#say({ word: 'message', term: this.#term, message, cursor });
    return this.#messages.push(message);
  }

  /**
   * Sets the time anew after which a silent leader is taken for frozen: two heartbeats, as of a silent server, and up to
   * one more by chance, since of the tabs that would all take the lead at once the first is enough.
   */
  #listen(): void {
    this.#rest();
    if (this.#term !== undefined) return;
    this.#rest = silence((2 + Math.random()) * this.#heartbeat(), () => {
      if (this.#term !== undefined || this.#end.signal.aborted) return;
      this.#bridge();
      this.#stand(true);
    });
  }

  /** Whether the stream of this tab's own has a line. */
  get #isOpen(): boolean {
    const state = this.#own?.connection.state;
    return state === 'live' || state === 'stale';
  }

  #heartbeat(): number {
    return this.#options.heartbeat ?? 15_000;
  }

  #say(word: Word): void {
    if (!this.#end.signal.aborted) this.#channel?.postMessage(word);
  }

  #become(connection: Connection): void {
    if (this.#connection.state === 'closed') return;
    this.#connection = connection;
    this.#handlers.connection?.(connection);
  }
}

function canShare(): boolean {
  const scope: { BroadcastChannel?: unknown; navigator?: { locks?: unknown } } = globalThis;
  return scope.BroadcastChannel !== undefined && scope.navigator?.locks !== undefined;
}

type Told = Pick<Extract<Word, { word: 'message' }>, 'message' | 'cursor'>;

/** The newest messages of the leader, found by their cursors: a tab that is far behind looks for one with each it takes. */
class Noted {
  readonly #told: Told[] = [];
  /** How many messages went before the first that is kept. */
  #gone = 0;
  readonly #places = new Map<string, number>();

  push(told: Told): void {
    if (told.cursor !== undefined) this.#places.set(told.cursor, this.#gone + this.#told.length);
    this.#told.push(told);
    if (this.#told.length < 2 * MOST_NOTED) return;
    this.#told.splice(0, MOST_NOTED);
    this.#gone += MOST_NOTED;
    for (const [cursor, place] of this.#places) if (place < this.#gone) this.#places.delete(cursor);
  }

  /** What was told after a cursor, where that is among them. */
  after(cursor: string): Told[] | undefined {
    const place = this.#places.get(cursor);
    return place === undefined ? undefined : this.#told.slice(place - this.#gone + 1);
  }
}

/** Messages that a tab is behind the leader, after which it reads itself until it is no longer. */
const MOST_WAITING = 10_000;

/** Messages that are noted at least while a tab joins; more than a leader tells before the bridge is there. */
const MOST_NOTED = 10_000;

/** The cursor that a client comes back with after a message; those of a snapshot have none before its end. */
function cursorOf(message: Message): string | undefined {
  if (message.kind === 'event') return message.event.id;
  return message.kind === 'cursor' || message.kind === 'snapshot_end' ? message.cursor : undefined;
}
