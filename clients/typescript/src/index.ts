/**
 * Follows a Tidings event stream from a browser or Node.
 *
 * @packageDocumentation
 */
export type * from './events.js';
export { type Failure, TidingsError } from './errors.js';
export { type Block, SseParser } from './sse.js';
export {
  type Connection,
  type ConnectionState,
  type Handlers,
  type StreamOptions,
  TidingsStream,
} from './stream.js';
export { exchange, type ExchangeOptions, type TokenSource } from './token.js';
