import type { Message } from './events.js';

/** Messages on their way from the channel to the caller. */
export class MessageQueue implements AsyncIterable<Message> {
  readonly #messages: Message[] = [];
  #wake: (() => void) | undefined;
  #drained: (() => void)[] = [];
  #isOver = false;
  #error: Error | undefined;

  /** Adds a message; resolves when few are waiting. */
  push(message: Message): Promise<void> {
    if (this.#isOver) return Promise.resolve();
    this.#messages.push(message);
    this.#wake?.();
    if (this.#messages.length < MANY) return Promise.resolve();
    return new Promise((resolve) => this.#drained.push(resolve));
  }

  /** How many are waiting. */
  get length(): number {
    return this.#messages.length;
  }

  /** No more come; what is there is still taken. */
  end(): void {
    this.#isOver = true;
    this.#wake?.();
    for (const drained of this.#drained.splice(0)) drained();
  }

  /** No more come, and the caller is told why. */
  fail(error: Error): void {
    this.#error ??= error;
    this.end();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Message, void, undefined> {
    while (true) {
      const message = this.#messages.shift();
      if (message !== undefined) {
        if (this.#messages.length < MANY) for (const drained of this.#drained.splice(0)) drained();
        yield message;
      } else if (this.#isOver) {
        if (this.#error !== undefined) throw this.#error;
        return;
      } else
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
    }
  }
}

const MANY = 1_000;
