/** Why a request failed: what to do about it differs. */
export type Failure =
  /** The login is missing, over or revoked (401): sign in again. */
  | 'unauthorized'
  /** The login is good and may not see this (403). */
  | 'forbidden'
  /** A parameter is wrong (400, 404, 405, 422): the program must change. */
  | 'invalid'
  /** The tenant was purged (410). */
  | 'gone'
  /** Too many, or not ready (429, 503): later. */
  | 'busy'
  /** The line broke, or what came is no answer of this server. */
  | 'network';

/** A failure with what the server said of it (RFC 9457). */
export class TidingsError extends Error {
  override readonly name = 'TidingsError';

  constructor(
    readonly failure: Failure,
    message: string,
    /** The HTTP status; 0 where there was no answer. */
    readonly status = 0,
    /** Milliseconds that the server asks to wait (`Retry-After`). */
    readonly retryAfter?: number,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }

  /** Whether the same request can succeed later. */
  get isTransient(): boolean {
    return this.failure === 'busy' || this.failure === 'network';
  }
}

const FAILURES: Readonly<Record<number, Failure>> = {
  401: 'unauthorized',
  403: 'forbidden',
  410: 'gone',
  408: 'busy',
  425: 'busy',
  429: 'busy',
};

/** Reads a refusal; the body's `detail` is its sentence where it has one. */
export async function refusal(response: Response): Promise<TidingsError> {
  const { status } = response;
  let detail = `${status} ${response.statusText}`.trim();
  try {
    const problem = (await response.json()) as { detail?: unknown };
    if (typeof problem.detail === 'string') detail = problem.detail;
  } catch {
    // A proxy's page, or none: the status says enough.
  }
  const failure = FAILURES[status] ?? (status >= 400 && status < 500 ? 'invalid' : 'busy');
  return new TidingsError(failure, detail, status, retryAfter(response.headers.get('retry-after')));
}

/** `Retry-After` in milliseconds: seconds or a date (RFC 9110, section 10.2.3). */
function retryAfter(value: string | null): number | undefined {
  if (value === null) return undefined;
  const wait = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isNaN(wait) ? undefined : Math.max(0, wait);
}
