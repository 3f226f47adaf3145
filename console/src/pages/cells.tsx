import { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import type { Device } from '../devices';
import { short } from '../text';

/** Where each cell and each group's title stands: it follows from how many devices each group has, and from the room. */
interface Plan {
  readonly size: number;
  readonly columns: number;
  readonly height: number;
  readonly groups: readonly Group[];
}

interface Group {
  readonly title: string;
  /** The place of its first device in the list, and how many follow. */
  readonly first: number;
  readonly count: number;
  /** Where its title begins; its cells are `TITLE` below. */
  readonly top: number;
}

const GAP = 2;
const TITLE = 22;

/** As large as lets all be seen at once, within reason. */
function plan(sizes: readonly (readonly [string, number])[], width: number, room: number): Plan {
  for (let size = 30; ; size -= 2) {
    const step = size + GAP;
    const columns = Math.max(1, Math.floor((width + GAP) / step));
    const groups: Group[] = [];
    let [top, first] = [0, 0];
    for (const [title, count] of sizes) {
      groups.push({ title, first, count, top });
      first += count;
      top += TITLE + Math.ceil(count / columns) * step + 6;
    }
    if (top <= room || size <= 10) return { size, columns, height: top, groups };
  }
}

function sizesOf(devices: readonly Device[]): [string, number][] {
  const sizes: [string, number][] = [];
  let last: [string, number] | undefined;
  for (const { group } of devices)
    if (last?.[0] === group) last[1] += 1;
    else sizes.push((last = [group, 1]));
  return sizes;
}

function placeAt({ size, columns, groups }: Plan, x: number, y: number): number | undefined {
  const step = size + GAP;
  const group = groups.findLast(({ top }) => top <= y);
  const column = Math.floor(x / step);
  if (group === undefined || y < group.top + TITLE || x < 0 || column >= columns) return undefined;
  const place = Math.floor((y - group.top - TITLE) / step) * columns + column;
  return place < group.count ? group.first + place : undefined;
}

function cornerOf({ size, columns, groups }: Plan, place: number): { x: number; y: number } {
  const step = size + GAP;
  const group = groups.findLast(({ first }) => first <= place) ?? groups[0];
  const within = place - (group?.first ?? 0);
  return {
    x: (within % columns) * step,
    y: (group?.top ?? 0) + TITLE + Math.floor(within / columns) * step,
  };
}

/** The cells on a canvas: ten thousand of them are one element. */
export function Cells({ devices, onOpen }: { devices: readonly Device[]; onOpen: (device: Device) => void }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const painter = useRef<Painter>();
  const [width, setWidth] = useState(0);
  const [choice, choose] = useState<{ key: string; by: 'keys' | 'pointer' } | undefined>();
  useLayoutEffect(() => {
    const box = canvas.current?.parentElement;
    if (!box) return;
    const observer = new ResizeObserver(() => setWidth(box.clientWidth));
    observer.observe(box);
    setWidth(box.clientWidth);
    return () => observer.disconnect();
  }, []);
  const sizes = sizesOf(devices);
  const laid = useMemo(
    () => plan(sizes, Math.max(width, 100), Math.max(260, innerHeight - 300)),
    [JSON.stringify(sizes), width],
  );
  const [theme, setTheme] = useState(0);
  useEffect(() => {
    const media = matchMedia('(prefers-color-scheme: dark)');
    const follow = () => setTheme((turn) => turn + 1);
    media.addEventListener('change', follow);
    return () => media.removeEventListener('change', follow);
  }, []);
  useEffect(() => {
    if (canvas.current && width > 0) painter.current = new Painter(canvas.current, laid, width);
  }, [laid, width, theme]);
  useEffect(() => painter.current?.paint(devices), [devices, laid, width, theme]);

  // By its key: a device that comes before it moves its cell, and the choice goes along.
  const found = useMemo(() => devices.findIndex(({ key }) => key === choice?.key), [devices, choice?.key]);
  const at = found < 0 ? undefined : found;
  const chosen = at === undefined ? undefined : devices[at];
  const deviceAt = ({ offsetX, offsetY }: MouseEvent) => {
    const place = placeAt(laid, offsetX, offsetY);
    return place === undefined ? undefined : devices[place];
  };
  const point = (event: MouseEvent) => {
    // A browser tells of a move also where the page moved under a pointer that rests: nobody pointed then.
    if (event.movementX === 0 && event.movementY === 0) return;
    const device = deviceAt(event);
    choose(device && { key: device.key, by: 'pointer' });
  };
  const step = (event: KeyboardEvent) => {
    const moves: Record<string, number> = {
      ArrowRight: 1,
      ArrowLeft: -1,
      ArrowDown: laid.columns,
      ArrowUp: -laid.columns,
    };
    const move = moves[event.key];
    if (event.key === 'Enter') {
      if (chosen) onOpen(chosen);
    } else if (move !== undefined) {
      event.preventDefault();
      const next = devices[Math.min(devices.length - 1, Math.max(0, at === undefined ? 0 : at + move))];
      choose(next && { key: next.key, by: 'keys' });
    }
  };
  const corner = at === undefined || chosen === undefined ? undefined : cornerOf(laid, at);
  const about = chosen
    ? `${chosen.name}: ${chosen.health}${chosen.alerts > 0 ? `, ${chosen.alerts} ${chosen.alerts === 1 ? 'alert' : 'alerts'}` : ''}`
    : '';
  return (
    <div class="cells">
      <canvas
        ref={canvas}
        tabIndex={0}
        role="application"
        aria-label={`${devices.length} ${devices.length === 1 ? 'device' : 'devices'}. Arrow keys choose one, Enter opens it. The list shows the same as text.`}
        aria-describedby="cell-about"
        onMouseMove={point}
        onMouseLeave={() => choose((now) => (now?.by === 'pointer' ? undefined : now))}
        onClick={(event) => {
          const device = deviceAt(event);
          if (device) onOpen(device);
        }}
        onKeyDown={step}
      />
      {corner && (
        <i
          class="ring"
          aria-hidden="true"
          style={{
            transform: `translate(${corner.x - GAP}px, ${corner.y - GAP}px)`,
            width: `${laid.size + 2 * GAP}px`,
            height: `${laid.size + 2 * GAP}px`,
          }}
        />
      )}
      <p id="cell-about" class="about" role="status">
        {about || 'Point at a cell, or press an arrow key.'}
      </p>
      <ul class="legend" aria-hidden="true">
        <li class="up">up</li>
        <li class="down">down</li>
        <li class="unknown">unknown</li>
        <li class="alert">open alert</li>
        <li class="busy">push or firmware under way</li>
      </ul>
    </div>
  );
}

const HEALTHS = ['up', 'down', 'unknown'] as const;

/** How a cell looks, as a number: what looks as it did is not painted again. */
function look({ health, alerts, isBusy }: Device): number {
  return 1 + HEALTHS.indexOf(health) + (alerts > 0 ? 4 : 0) + (isBusy ? 8 : 0);
}

/** Paints one plan; only what has changed, since a fleet of thousands changes in a few places at a time. */
class Painter {
  readonly #pen: CanvasRenderingContext2D | null;
  readonly #plan: Plan;
  readonly #colours: Readonly<Record<string, string>>;
  readonly #painted: Uint8Array;

  constructor(canvas: HTMLCanvasElement, plan: Plan, width: number) {
    const ratio = devicePixelRatio;
    // Also clears it.
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(plan.height * ratio);
    canvas.style.height = `${plan.height}px`;
    this.#plan = plan;
    this.#pen = canvas.getContext('2d');
    const style = getComputedStyle(canvas);
    const names = ['up', 'down', 'unknown', 'alert', 'busy', 'quiet', 'ground'];
    this.#colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`)]));
    this.#painted = new Uint8Array(plan.groups.reduce((sum, { count }) => sum + count, 0));
    if (this.#pen === null) return;
    this.#pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.#pen.font = `600 12px ${style.fontFamily}`;
    this.#pen.fillStyle = this.#colours['quiet'] ?? '';
    for (const { title, top } of plan.groups)
      this.#pen.fillText(title === '' ? 'No site' : short(title), 0, top + 15);
  }

  paint(devices: readonly Device[]): void {
    const { size, columns, groups } = this.#plan;
    const step = size + GAP;
    for (const { first, count, top } of groups)
      for (let within = 0; within < count; within++) {
        const device = devices[first + within];
        if (device === undefined) return;
        const now = look(device);
        if (this.#painted[first + within] === now) continue;
        this.#painted[first + within] = now;
        const y = top + TITLE + Math.floor(within / columns) * step;
        this.#cell(device, (within % columns) * step, y, size);
      }
  }

  #cell(device: Device, x: number, y: number, size: number): void {
    const pen = this.#pen;
    if (pen === null) return;
    const { alert = '', busy = '', ground = '', [device.health]: fill = '' } = this.#colours;
    pen.fillStyle = fill;
    pen.fillRect(x, y, size, size);
    if (device.health === 'down') {
      // Not by colour alone.
      pen.strokeStyle = ground;
      pen.lineWidth = 2;
      pen.beginPath();
      pen.moveTo(x + size * 0.28, y + size * 0.28);
      pen.lineTo(x + size * 0.72, y + size * 0.72);
      pen.moveTo(x + size * 0.72, y + size * 0.28);
      pen.lineTo(x + size * 0.28, y + size * 0.72);
      pen.stroke();
    }
    if (device.alerts > 0) {
      pen.fillStyle = alert;
      pen.beginPath();
      pen.moveTo(x + size, y);
      pen.lineTo(x + size, y + size * 0.55);
      pen.lineTo(x + size * 0.45, y);
      pen.fill();
    }
    if (device.isBusy) {
      pen.fillStyle = busy;
      pen.fillRect(x, y + size - Math.max(2, size / 7), size, Math.max(2, size / 7));
    }
  }
}
