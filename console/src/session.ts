import { type Connection, exchange, TidingsError, type TidingsEvent } from '@tidings/client';
import { type FleetStore, followFleet } from '@tidings/client/fleet';
import { SharedStream } from '@tidings/client/shared';
import { Api } from './api';
import { fetchLogin, type Login } from './login';
import { Rates } from './rates';

/** An event as the feed keeps it: when this page had it. */
export interface Seen {
  readonly event: TidingsEvent;
  readonly at: number;
}

/** A notice that stays until the next snapshot has mended it, or somebody has read it. */
export interface Notice {
  readonly at: number;
  readonly text: string;
}

/** What a page wants to be told at once, and not only to find among what was seen. */
export interface Watcher {
  event(event: TidingsEvent): void;
  gap(): void;
  connection(state: Connection): void;
}

const MOST_SEEN = 2_000;

/** All that a login brings: the stream that all tabs of it share, the fleet, and the newest events. */
export class Session {
  readonly api: Api;
  readonly store: FleetStore;
  /** The newest events, the newest last. Changed in place. */
  readonly seen: Seen[] = [];
  readonly rates = new Rates();
  notices: readonly Notice[] = [];
  /** Why the stream has ended for good. */
  failure: TidingsError | undefined;

  readonly #listeners = new Set<() => void>();
  readonly #watchers = new Set<Watcher>();
  readonly #close: () => void;
  #isTelling = false;

  constructor(
    readonly login: Login,
    readonly mount: string,
    onFailure: (error: TidingsError) => void,
  ) {
    const access = accessOf(login);
    this.api = new Api(access, mount);
    const token = exchange({ baseUrl: mount, accessToken: access });
    const tenant = login.tenant === null ? {} : { tenant: login.tenant };
    const name = `console/${login.user}/${login.tenant ?? 'all'}/${fingerprint(login.identity)}`;
    const followed = followFleet(
      { ...tenant, baseUrl: mount, token, conflate: 'default', interval: 200 },
      {
        event: (event) => this.#see(event),
        connection: (connection) => {
          this.rates.note(connection.state === 'live', Date.now());
          for (const watcher of this.#watchers) watcher.connection(connection);
        },
        gap: ({ reason }) => {
          this.#notice(`Events are missing here (${reason.replaceAll('_', ' ')}); the fleet is read anew.`);
          for (const watcher of this.#watchers) watcher.gap();
        },
        closing: ({ reason }) => {
          if (reason === 'view_changed') this.#notice('What you may see has changed.');
        },
      },
      (options, handlers) => new SharedStream({ ...options, name }, handlers),
    );
    this.store = followed.store;
    const note = () => this.rates.note(this.connection.state === 'live', Date.now());
    const ticking = setInterval(note, 1_000);
    this.#close = () => {
      clearInterval(ticking);
      followed.close();
    };
    followed.done.catch((error: unknown) => {
      this.failure = error as TidingsError;
      onFailure(this.failure);
    });
  }

  get connection(): Connection {
    return this.store.getSnapshot().connection;
  }

  close(): void {
    this.#close();
  }

  /** Calls after changes of what was seen, at most five times a second. */
  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  /** Tells of every event, gap and state of the line, as they come; answers how to end that. */
  watch(watcher: Watcher): () => void {
    this.#watchers.add(watcher);
    watcher.connection(this.connection);
    return () => this.#watchers.delete(watcher);
  }

  #see(event: TidingsEvent): void {
    for (const watcher of this.#watchers) watcher.event(event);
    const at = Date.now();
    this.seen.push({ event, at });
    this.rates.count(event.type, event.data.tenant_id, at);
    if (this.seen.length > MOST_SEEN + MOST_SEEN / 4) this.seen.splice(0, this.seen.length - MOST_SEEN);
    this.#tell();
  }

  #notice(text: string): void {
    this.notices = [...this.notices, { at: Date.now(), text }].slice(-5);
    this.#tell();
  }

  #tell(): void {
    if (this.#isTelling) return;
    this.#isTelling = true;
    setTimeout(() => {
      this.#isTelling = false;
      for (const listener of this.#listeners) listener();
    }, 200);
  }
}

/** How long before its end a token is replaced, in milliseconds. */
const AHEAD = 30_000;

/** Gives the login's access token; a fresh one before it ends, where it has a source. */
function accessOf(login: Login): () => Promise<string> {
  let current = login;
  let fetching: Promise<Login> | undefined;
  return async () => {
    if (current.source !== undefined && Date.now() > current.expiresAt - AHEAD) {
      fetching ??= fetchLogin(current.source).finally(() => (fetching = undefined));
      const fresh = await fetching;
      // Somebody else logged in beside this tab: what is on the screen is not theirs. What the same user may see is
      // the server's to say, and claims that are of no concern here can be others in every token.
      if (fresh.user !== login.user || fresh.tenant !== login.tenant || fresh.role !== login.role)
        throw new TidingsError('unauthorized', 'Another login is there now: sign in with it.');
      current = fresh;
    }
    return current.token;
  };
}

/**
 * Two logins never share a stream: a short mark of what they have in common, from which a token can't be had. Who only
 * claims to be somebody gets nothing by it: a tab is told what another reads only after it has opened a stream itself.
 */
function fingerprint(identity: string): string {
  // Two marks of 32 bits from different beginnings: one alone could be met by chance.
  const mark = (hash: number) => {
    for (let at = 0; at < identity.length; at++)
      hash = Math.imul(hash ^ identity.charCodeAt(at), 0x01000193) >>> 0;
    return hash.toString(36);
  };
  return `${mark(0x811c9dc5)}-${mark(0x9747b28c)}`;
}
