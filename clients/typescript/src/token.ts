import { refusal, TidingsError } from './errors.js';

/** Gives a fresh stream token: single-use, good for 30 seconds. Called before every opening. */
export type TokenSource = (signal: AbortSignal) => Promise<string>;

/** How to get stream tokens from the server itself. */
export interface ExchangeOptions {
  /** Where the API is, without a slash at the end; the page's own origin where it is left out. */
  readonly baseUrl?: string;
  /** The access token of the login. Without it the request carries cookies. */
  readonly accessToken?: (() => string | Promise<string>) | undefined;
  readonly fetch?: typeof fetch;
}

/** Exchanges the login for stream tokens at `POST /auth/sse-token`. */
export function exchange(options: ExchangeOptions = {}): TokenSource {
  return async (signal) => {
    const { baseUrl = '', accessToken, fetch: send = fetch } = options;
    const request: RequestInit = { method: 'POST', cache: 'no-store', signal };
    if (accessToken) request.headers = { authorization: `Bearer ${await accessToken()}` };
    else request.credentials = 'include';
    const response = await send(`${baseUrl}/auth/sse-token`, request);
    if (!response.ok) throw await refusal(response);
    const { token } = (await response.json()) as { token?: unknown };
    if (typeof token !== 'string') throw new TidingsError('network', 'the answer holds no token', 200);
    return token;
  };
}
