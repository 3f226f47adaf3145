/** What is in every payload; the server puts both in where a publisher left them out. */
export interface Payload {
  readonly tenant_id: string;
  readonly device_id?: string;
  readonly [field: string]: unknown;
}

/** A device as its poller saw it. Numbers that devices report as text stay text. */
export interface DeviceStatus extends Payload {
  readonly status?: 'online' | 'offline' | (string & {});
  readonly name?: string;
  readonly site?: string;
  readonly board_name?: string;
  readonly architecture?: string;
  readonly serial_number?: string;
  readonly firmware_version?: string;
  readonly routeros_version?: string;
  readonly uptime?: string;
  readonly cpu_load?: string;
  readonly free_memory?: string;
  readonly total_memory?: string;
  /** RFC 3339. */
  readonly last_seen?: string;
}

/** One kind of measurements of a device; under the field that `type` names. */
export interface MetricUpdate extends Payload {
  readonly type?: 'health' | 'interfaces' | 'wireless' | (string & {});
  /** RFC 3339. */
  readonly collected_at?: string;
  readonly health?: Readonly<Record<string, unknown>>;
  readonly interfaces?: readonly Readonly<Record<string, unknown>>[];
  readonly wireless?: readonly Readonly<Record<string, unknown>>[];
}

/** An alert that is on, or is no longer: the two share `alert_event_id`. */
export interface Alert extends Payload {
  readonly alert_event_id?: string;
  readonly severity?: 'critical' | 'warning' | 'info' | (string & {});
  readonly metric?: string;
  readonly message?: string;
  readonly current_value?: number;
  readonly threshold?: number;
  readonly is_flapping?: boolean;
  /** RFC 3339. */
  readonly fired_at?: string;
  /** RFC 3339. */
  readonly resolved_at?: string;
}

/** A stage of a configuration's way to a device. `committed`, `reverted` and `failed` are final. */
export interface ConfigPush extends Payload {
  readonly push_operation_id?: string | null;
  readonly stage?: string;
  readonly message?: string;
  /** RFC 3339. */
  readonly timestamp?: string;
}

/** A stage of a firmware job. `completed` and `failed` are final. */
export interface FirmwareProgress extends Payload {
  readonly job_id?: string;
  readonly stage?: string;
  readonly target_version?: string;
  readonly message?: string;
  /** RFC 3339. */
  readonly timestamp?: string;
}

/** A subject lives no longer, by an operator's hand or by its age. */
export interface Removed extends Payload {
  readonly type: string;
  readonly subject: string;
}

/** The payload of each type that the server knows by itself. A deployment can have more. */
export interface Payloads {
  device_status: DeviceStatus;
  metric_update: MetricUpdate;
  alert_fired: Alert;
  alert_resolved: Alert;
  config_push: ConfigPush;
  firmware_progress: FirmwareProgress;
  removed: Removed;
}

/** An event of the log. Narrow it by `type`; a type that is not known here has a {@link Payload}. */
export type TidingsEvent =
  { [Type in keyof Payloads]: EventOf<Type, Payloads[Type]> }[keyof Payloads] | EventOf<string & {}, Payload>;

/** An event with its type and payload. */
export interface EventOf<Type extends string, Data> {
  readonly type: Type;
  /** Its cursor: a text to come back with, in which a client reads nothing else. */
  readonly id: string;
  readonly data: Data;
}

/** What a stream was due and can't have. */
export interface Gap {
  /** The cursor or time that was asked for, shortened. */
  readonly requested: string;
  /** Where the stream goes on. */
  readonly resumed_at: string;
  readonly reason: 'expired' | 'unknown_epoch' | 'ahead_of_log' | 'malformed' | (string & {});
  /** Over several sources: the one that it is about. */
  readonly source?: string;
}

/** Why the server ends a stream. */
export interface Closing {
  readonly reason:
    | 'expired'
    | 'revoked'
    | 'draining'
    | 'deleted'
    | 'view_changed'
    | 'disconnected'
    | 'stalled'
    | (string & {});
  /** Milliseconds after which to come back. */
  readonly retry?: number;
  /** Events that conflation left out on this stream. */
  readonly conflated?: number;
}

/**
 * What a stream brings, in its order.
 *
 * A snapshot is `snapshot_begin`, a `snapshot` for each living subject, and `snapshot_end`; what was known before
 * `snapshot_begin` is void. Where the line breaks before the end, another one begins.
 */
export type Message =
  | { readonly kind: 'event'; readonly event: TidingsEvent }
  | { readonly kind: 'gap'; readonly gap: Gap }
  | { readonly kind: 'snapshot_begin' }
  | { readonly kind: 'snapshot'; readonly event: TidingsEvent }
  | { readonly kind: 'snapshot_end'; readonly cursor: string }
  /** The stream's position has moved over events that its view does not show. */
  | { readonly kind: 'cursor'; readonly cursor: string };
