/**
 * The fleet as it is: a snapshot and the events after it, folded into maps that a page can show.
 *
 * @packageDocumentation
 */
import type {
  Alert,
  ConfigPush,
  DeviceStatus,
  FirmwareProgress,
  Message,
  MetricUpdate,
  Payload,
  TidingsEvent,
} from './events.js';
import { type Connection, type Handlers, type StreamOptions, TidingsStream } from './stream.js';
import { effectOf, SUBJECTS, type SubjectRule } from './subjects.js';

export { type Effect, effectOf, SUBJECTS, type SubjectRule } from './subjects.js';

/** Subjects by their key: the tenant's id, a slash, and what names the subject within it. */
export type Subjects<Data> = ReadonlyMap<string, Data>;

/** What is known of the fleet at one moment. It never changes: what is the same later is the same object. */
export interface Fleet {
  readonly devices: Subjects<DeviceStatus>;
  /** The latest of each kind of measurements of each device: key `TENANT/DEVICE/TYPE`. */
  readonly metrics: Subjects<MetricUpdate>;
  /** Alerts that are on. */
  readonly alerts: Subjects<Alert>;
  /** Configuration pushes that are under way. */
  readonly pushes: Subjects<ConfigPush>;
  /** Firmware jobs that are under way. */
  readonly firmware: Subjects<FirmwareProgress>;
  /** Subjects of a deployment's own types, by the type that they are kept as. */
  readonly others: ReadonlyMap<string, Subjects<Payload>>;
  /** Whether this is the whole picture: false before the first snapshot's end, and from a gap to the end of the next. */
  readonly isComplete: boolean;
  readonly connection: Connection;
}

/** How a store folds and tells. */
export interface FleetOptions {
  /** Rules for further types, and in place of the server's own. */
  readonly subjects?: Readonly<Record<string, SubjectRule>>;
  /** The shortest time between two tellings, in milliseconds (100). */
  readonly interval?: number;
}

const KNOWN = {
  device_status: 'devices',
  metric_update: 'metrics',
  alert_fired: 'alerts',
  config_push: 'pushes',
  firmware_progress: 'firmware',
} as const;

type Kept = Map<string, Map<string, Payload>>;

/**
 * Folds messages and tells of changes in batches: at 500 events a second a page renders ten times a second, not 500.
 *
 * `subscribe` and `getSnapshot` are what React's `useSyncExternalStore` takes; `subscribe` alone is a Svelte store.
 */
export class FleetStore {
  readonly #rules: Readonly<Record<string, SubjectRule>>;
  readonly #interval: number;
  readonly #listeners = new Set<(fleet: Fleet) => void>();
  #kept: Kept = new Map();
  /** The snapshot that is being told: nothing of it shows before its end. */
  #coming: Kept | undefined;
  readonly #changed = new Set<string>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #toldAt = 0;
  #isComplete = false;
  #connection: Connection = { state: 'connecting', since: Date.now() };
  #fleet: Fleet;

  constructor(options: FleetOptions = {}) {
    this.#rules = { ...SUBJECTS, ...options.subjects };
    this.#interval = options.interval ?? 100;
    this.#fleet = {
      devices: new Map(),
      metrics: new Map(),
      alerts: new Map(),
      pushes: new Map(),
      firmware: new Map(),
      others: new Map(),
      isComplete: false,
      connection: this.#connection,
    };
  }

  /** What was told last. */
  readonly getSnapshot = (): Fleet => this.#fleet;

  /** Calls with what is known, now and after every change; answers how to end that. */
  readonly subscribe = (listener: (fleet: Fleet) => void): (() => void) => {
    const own = (fleet: Fleet) => {
      listener(fleet);
    };
    this.#listeners.add(own);
    own(this.#fleet);
    return () => {
      this.#listeners.delete(own);
    };
  };

  /** Takes a message, in the order of the stream. */
  take(message: Message): void {
    switch (message.kind) {
      case 'event':
        this.#fold(this.#kept, message.event);
        this.#later();
        break;
      case 'snapshot_begin':
        this.#coming = new Map();
        break;
      case 'snapshot':
        this.#fold(this.#coming ?? this.#kept, message.event);
        break;
      case 'snapshot_end':
        for (const type of [...this.#kept.keys(), ...(this.#coming?.keys() ?? [])]) this.#changed.add(type);
        this.#kept = this.#coming ?? this.#kept;
        this.#coming = undefined;
        this.#isComplete = true;
        this.#tell();
        break;
      case 'gap':
        this.#isComplete = false;
        this.#tell();
        break;
      case 'cursor':
        break;
    }
  }

  /** Takes how it stands with the line, and tells it at once: a screen must not look live when it is not. */
  takeConnection(connection: Connection): void {
    this.#connection = connection;
    this.#tell();
  }

  #fold(kept: Kept, event: TidingsEvent): void {
    const effect = effectOf(event, this.#rules);
    if (effect === undefined) return;
    let subjects = kept.get(effect.keptAs);
    if (subjects === undefined) kept.set(effect.keptAs, (subjects = new Map<string, Payload>()));
    if (effect.ends) subjects.delete(effect.key);
    else subjects.set(effect.key, event.data);
    if (kept === this.#kept) this.#changed.add(effect.keptAs);
  }

  #later(): void {
    if (this.#changed.size === 0 || this.#timer !== undefined) return;
    const wait = Math.max(0, this.#toldAt + this.#interval - Date.now());
    this.#timer = setTimeout(() => {
      this.#tell();
    }, wait);
  }

  #tell(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#toldAt = Date.now();
    const changes: Record<string, unknown> = {};
    let others: Map<string, Subjects<Payload>> | undefined;
    for (const type of this.#changed) {
      const copy = new Map(this.#kept.get(type) ?? new Map<string, Payload>());
      const name = Object.hasOwn(KNOWN, type) ? KNOWN[type as keyof typeof KNOWN] : undefined;
      if (name !== undefined) changes[name] = copy;
      else (others ??= new Map<string, Subjects<Payload>>(this.#fleet.others)).set(type, copy);
    }
    this.#changed.clear();
    if (others !== undefined) changes['others'] = others;
    const [isComplete, connection] = [this.#isComplete, this.#connection];
    this.#fleet = { ...this.#fleet, ...changes, isComplete, connection };
    for (const listener of this.#listeners) listener(this.#fleet);
  }
}

/** What brings messages: a stream of this page's own, or one that all tabs share. */
export interface Source extends AsyncIterable<Message> {
  close(): void;
}

/** A store that is fed, and how that ends. */
export interface FollowedFleet {
  readonly store: FleetStore;
  /** Ends with the stream; throws what no attempt can mend. */
  readonly done: Promise<void>;
  close(): void;
}

/**
 * Follows the fleet: a stream with a snapshot, folded into a store.
 *
 * `open` makes the stream; give `(options, handlers) => new SharedStream({ ...options, name }, handlers)` for one that
 * all tabs share.
 */
export function followFleet(
  options: StreamOptions & FleetOptions,
  handlers: Handlers = {},
  open: (options: StreamOptions, handlers: Handlers) => Source = (...given) => new TidingsStream(...given),
): FollowedFleet {
  const store = new FleetStore(options);
  const connection = (state: Connection) => {
    store.takeConnection(state);
    handlers.connection?.(state);
  };
  const stream = open({ ...options, snapshot: true }, { ...handlers, connection });
  const done = (async () => {
    for await (const message of stream) {
      store.take(message);
      if (message.kind === 'event') handlers.event?.(message.event);
      else if (message.kind === 'gap') handlers.gap?.(message.gap);
    }
  })();
  return {
    store,
    done,
    close: () => {
      stream.close();
    },
  };
}
