// The browser's own tracing: which tasks held the page's thread for long, and what became of each frame.

/** Enough for tasks, frames and answers to input; more would cost what is measured. */
const CATEGORIES = [
  'devtools.timeline',
  'disabled-by-default-devtools.timeline',
  'disabled-by-default-devtools.timeline.frame',
  '__metadata',
];

/** From which on a task counts as long (W3C Long Tasks), in milliseconds. */
const LONG_TASK = 50;
/** What a person sees as late, in milliseconds from the frame's begin to its presentation. */
const LATE_FRAME = 100;

/** Traces slice by slice, and keeps of each only the figures. */
export class Trace {
  #session;
  #kept = new Map();

  constructor(session) {
    this.#session = session;
  }

  async start() {
    await this.#session.send('Tracing.start', {
      transferMode: 'ReturnAsStream',
      traceConfig: {
        recordMode: 'recordUntilFull',
        traceBufferSizeInKb: 400_000,
        includedCategories: CATEGORIES,
      },
    });
  }

  /** Ends the slice and adds what it says under a name. */
  async end(name) {
    const complete = new Promise((resolve) => this.#session.once('Tracing.tracingComplete', resolve));
    await this.#session.send('Tracing.end');
    const { stream, dataLossOccurred } = await complete;
    const pieces = [];
    for (let isOver = false; !isOver;) {
      const { data, eof, base64Encoded } = await this.#session.send('IO.read', { handle: stream });
      pieces.push(base64Encoded ? Buffer.from(data, 'base64').toString() : data);
      isOver = eof;
    }
    await this.#session.send('IO.close', { handle: stream });
    const { traceEvents } = JSON.parse(pieces.join(''));
    const kept = this.#kept.get(name) ?? { tasks: [], frames: [], dropped: [], inputs: [], isWhole: true };
    this.#kept.set(name, kept);
    kept.isWhole &&= !dataLossOccurred;
    read(traceEvents, kept);
  }

  summary(name) {
    const { tasks, frames, dropped, inputs, isWhole } = this.#kept.get(name);
    const ascending = (values) => values.toSorted((one, other) => one - other);
    const at = (values, share) => {
      const value = ascending(values)[Math.max(0, Math.ceil(share * values.length) - 1)];
      return value === undefined ? null : Number(value.toFixed(1));
    };
    return {
      trace_is_whole: isWhole,
      tasks: tasks.length,
      tasks_longer_than_50_ms: tasks.filter((task) => task >= LONG_TASK).length,
      longest_task_ms: at(tasks, 1),
      frames_shown: frames.length,
      frame_p50_ms: at(frames, 0.5),
      frame_p99_ms: at(frames, 0.99),
      frame_max_ms: at(frames, 1),
      frames_later_than_100_ms: frames.filter((frame) => frame > LATE_FRAME).length,
      frames_dropped: dropped.length,
      frames_dropped_in_motion: dropped.filter(Boolean).length,
      inputs: inputs.length,
      input_p50_ms: at(inputs, 0.5),
      input_p99_ms: at(inputs, 0.99),
      input_max_ms: at(inputs, 1),
    };
  }
}

/** What a person does, among the events that the browser times. */
const INPUTS = new Set(['keydown', 'input']);

/** Reads one slice's events into what is kept. */
function read(events, kept) {
  const named = events.filter(({ name, args }) => name === 'thread_name' && args.name === 'CrRendererMain');
  const mains = new Set(named.map(({ pid, tid }) => `${pid}/${tid}`));
  // The browser's own frames are not the page's.
  const pages = new Set(named.map(({ pid }) => pid));
  const begun = new Map();
  const timed = new Set();
  for (const { name, ph, pid, tid, ts, dur, args, id2 } of events)
    if (name === 'RunTask' && mains.has(`${pid}/${tid}`)) kept.tasks.push((dur ?? 0) / 1000);
    else if (name === 'PipelineReporter' && pages.has(pid)) {
      const key = `${pid}/${id2.local}`;
      const start = begun.get(key);
      if (ph === 'b') begun.set(key, { ts, ...args.frame_reporter });
      else if (ph === 'e' && begun.delete(key)) frame(start, (ts - start.ts) / 1000, kept);
    } else if (name === 'EventTiming' && ph === 'b' && INPUTS.has(args.data.type)) {
      // One input is told once for each element that hears of it.
      const { type, timeStamp, duration } = args.data;
      if (!timed.has(`${type}/${timeStamp}`)) kept.inputs.push(duration);
      timed.add(`${type}/${timeStamp}`);
    }
}

function frame({ state, affects_smoothness: isMotion }, took, kept) {
  if (state === 'STATE_PRESENTED_ALL' || state === 'STATE_PRESENTED_PARTIAL') kept.frames.push(took);
  else if (state === 'STATE_DROPPED') kept.dropped.push(Boolean(isMotion));
}
