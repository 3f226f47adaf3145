import type { Fleet } from '@tidings/client/fleet';
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import { type Device, devicesOf, matches } from '../devices';
import { amend, href, type Route } from '../route';
import type { Session } from '../session';
import { short } from '../text';
import { useFleet } from '../use';

/** The fleet at a glance: a cell for each device, in groups; and as a list, for those who read rather than look. */
export function FleetPage({ session, route }: { session: Session; route: Route }) {
  const fleet = useFleet(session);
  const search = route.query.get('search') ?? '';
  const asList = route.query.get('as') === 'list';
  const isOfAll = session.login.tenant === null;
  const byTenant = (route.query.get('by') ?? (isOfAll ? 'tenant' : 'site')) === 'tenant';
  const all = useMemo(
    () => devicesOf(fleet, byTenant),
    [fleet.devices, fleet.alerts, fleet.pushes, fleet.firmware, byTenant],
  );
  const shown = useMemo(
    () => (search === '' ? all : all.filter((device) => matches(device, search))),
    [all, search],
  );
  const down = all.filter(({ health }) => health === 'down').length;
  return (
    <>
      <div class="figures">
        <Figure name="devices" value={all.length} />
        <Figure name="up" value={all.filter(({ health }) => health === 'up').length} tone="up" />
        <Figure
          name="down"
          value={down}
          tone={down > 0 ? 'down' : ''}
          link={href('fleet', { search: 'down' })}
        />
        <Figure
          name="alerts open"
          value={fleet.alerts.size}
          tone={fleet.alerts.size > 0 ? 'alert' : ''}
          link={href('alerts')}
        />
        <Figure name="under way" value={fleet.pushes.size + fleet.firmware.size} link={href('work')} />
      </div>
      <div class="tools">
        <label class="grow">
          <span class="label">Search</span>
          <input
            type="search"
            value={search}
            placeholder="name, id, site, up, down, alert"
            onInput={(event) => amend(route, 'search', event.currentTarget.value)}
          />
        </label>
        <label>
          <span class="label">Groups</span>
          <select
            value={byTenant ? 'tenant' : 'site'}
            onChange={(event) => amend(route, 'by', event.currentTarget.value)}
          >
            <option value="site">Sites</option>
            <option value="tenant">Tenants</option>
          </select>
        </label>
        <label>
          <span class="label">Show</span>
          <select
            value={asList ? 'list' : 'cells'}
            onChange={(event) => amend(route, 'as', event.currentTarget.value === 'list' ? 'list' : '')}
          >
            <option value="cells">Cells</option>
            <option value="list">List</option>
          </select>
        </label>
      </div>
      {shown.length === 0 ? (
        <p class="empty">{emptyText(fleet, search)}</p>
      ) : asList ? (
        <DeviceList devices={shown} />
      ) : (
        <Cells devices={shown} />
      )}
    </>
  );
}

function emptyText(fleet: Fleet, search: string): string {
  if (!fleet.isComplete) return 'Reading how things are …';
  return search === '' ? 'No device has told its status yet.' : 'No device matches.';
}

function Figure({
  name,
  value,
  tone = '',
  link,
}: {
  name: string;
  value: number;
  tone?: string;
  link?: string;
}) {
  const inside = (
    <>
      <b>{value.toLocaleString()}</b> <span>{name}</span>
    </>
  );
  return link === undefined ? (
    <p class={`figure ${tone}`}>{inside}</p>
  ) : (
    <a class={`figure ${tone}`} href={link}>
      {inside}
    </a>
  );
}

const MOST_ROWS = 500;

function DeviceList({ devices }: { devices: readonly Device[] }) {
  return (
    <div class="scroll">
      <table>
        <thead>
          <tr>
            <th scope="col">Device</th>
            <th scope="col">State</th>
            <th scope="col">Alerts</th>
            <th scope="col">Group</th>
            <th scope="col">Model</th>
            <th scope="col">Version</th>
          </tr>
        </thead>
        <tbody>
          {devices.slice(0, MOST_ROWS).map((device) => (
            <tr key={device.key}>
              <th scope="row">
                <a href={href('device', { key: device.key })}>{device.name}</a>
              </th>
              <td>
                <span class={`state ${device.health}`}>{device.health}</span>
              </td>
              <td class="number">{device.alerts > 0 ? device.alerts : ''}</td>
              <td>{short(device.group)}</td>
              <td>{device.status.board_name ?? ''}</td>
              <td>{device.status.routeros_version ?? device.status.firmware_version ?? ''}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {devices.length > MOST_ROWS && (
        <p class="hint">{(devices.length - MOST_ROWS).toLocaleString()} more; search to narrow them.</p>
      )}
    </div>
  );
}

/** Where each cell and each group's title stands. */
interface Plan {
  readonly size: number;
  readonly height: number;
  readonly cells: readonly { device: Device; x: number; y: number }[];
  readonly titles: readonly { text: string; x: number; y: number }[];
}

const GAP = 2;
const TITLE = 22;

function plan(devices: readonly Device[], width: number, room: number): Plan {
  // As large as lets all be seen at once, within reason.
  for (let size = 30; ; size -= 2) {
    const made = lay(devices, width, size);
    if (made.height <= room || size <= 10) return made;
  }
}

function lay(devices: readonly Device[], width: number, size: number): Plan {
  const step = size + GAP;
  const columns = Math.max(1, Math.floor((width + GAP) / step));
  const cells: { device: Device; x: number; y: number }[] = [];
  const titles: { text: string; x: number; y: number }[] = [];
  let y = 0;
  let column = 0;
  let group: string | undefined;
  for (const device of devices) {
    if (device.group !== group) {
      if (group !== undefined) y += step + 6;
      group = device.group;
      titles.push({ text: group === '' ? 'No site' : short(group), x: 0, y: y + 15 });
      y += TITLE;
      column = 0;
    } else if (column === columns) {
      column = 0;
      y += step;
    }
    cells.push({ device, x: column * step, y });
    column += 1;
  }
  return { size, height: y + step, cells, titles };
}

/** The cells on a canvas: ten thousand of them are one element. */
function Cells({ devices }: { devices: readonly Device[] }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(0);
  const [at, setAt] = useState<number | undefined>();
  useLayoutEffect(() => {
    const box = canvas.current?.parentElement;
    if (!box) return;
    const observer = new ResizeObserver(() => setWidth(box.clientWidth));
    observer.observe(box);
    setWidth(box.clientWidth);
    return () => observer.disconnect();
  }, []);
  const laid = useMemo(
    () => plan(devices, Math.max(width, 100), Math.max(260, innerHeight - 300)),
    [devices, width],
  );
  const chosen = at === undefined ? undefined : laid.cells[at];
  const [theme, setTheme] = useState(0);
  useEffect(() => {
    const media = matchMedia('(prefers-color-scheme: dark)');
    const follow = () => setTheme((turn) => turn + 1);
    media.addEventListener('change', follow);
    return () => media.removeEventListener('change', follow);
  }, []);
  useEffect(() => {
    if (canvas.current && width > 0) draw(canvas.current, laid, width, at);
  }, [laid, width, at, theme]);

  const under = (event: { offsetX: number; offsetY: number }) => {
    const place = laid.cells.findIndex(
      ({ x, y }) =>
        event.offsetX >= x &&
        event.offsetX < x + laid.size + GAP &&
        event.offsetY >= y &&
        event.offsetY < y + laid.size + GAP,
    );
    return place < 0 ? undefined : place;
  };
  const open = (place: number | undefined) => {
    const device = place === undefined ? undefined : laid.cells[place]?.device;
    if (device) location.hash = href('device', { key: device.key });
  };
  const step = (event: KeyboardEvent) => {
    const columns = Math.max(1, Math.floor((width + GAP) / (laid.size + GAP)));
    const moves: Record<string, number> = {
      ArrowRight: 1,
      ArrowLeft: -1,
      ArrowDown: columns,
      ArrowUp: -columns,
    };
    const move = moves[event.key];
    if (event.key === 'Enter') open(at);
    else if (move !== undefined) {
      event.preventDefault();
      setAt(Math.min(laid.cells.length - 1, Math.max(0, at === undefined ? 0 : at + move)));
    }
  };
  const about = chosen
    ? `${chosen.device.name}: ${chosen.device.health}${chosen.device.alerts > 0 ? `, ${chosen.device.alerts} alerts` : ''}`
    : '';
  return (
    <div class="cells">
      <canvas
        ref={canvas}
        tabIndex={0}
        role="application"
        aria-label={`${devices.length} devices. Arrow keys choose one, Enter opens it. The list shows the same as text.`}
        aria-describedby="cell-about"
        onMouseMove={(event) => setAt(under(event))}
        onMouseLeave={() => setAt(undefined)}
        onClick={(event) => open(under(event))}
        onKeyDown={step}
      />
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

function draw(
  canvas: HTMLCanvasElement,
  { cells, titles, size, height }: Plan,
  width: number,
  at: number | undefined,
): void {
  const ratio = devicePixelRatio;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
  }
  const pen = canvas.getContext('2d');
  if (!pen) return;
  const style = getComputedStyle(canvas);
  const colour = (name: string) => style.getPropertyValue(`--${name}`);
  const fills = { up: colour('up'), down: colour('down'), unknown: colour('unknown') };
  const [alert, busy, ink, quiet] = [colour('alert'), colour('busy'), colour('ink'), colour('quiet')];
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = `600 12px ${style.fontFamily}`;
  pen.fillStyle = quiet;
  for (const { text, x, y } of titles) pen.fillText(text, x, y);
  for (const { device, x, y } of cells) {
    pen.fillStyle = fills[device.health];
    pen.fillRect(x, y, size, size);
    if (device.health === 'down') {
      // Not by colour alone.
      pen.strokeStyle = colour('ground');
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
  const chosen = at === undefined ? undefined : cells[at];
  if (chosen) {
    pen.strokeStyle = ink;
    pen.lineWidth = 2;
    pen.strokeRect(chosen.x - 1, chosen.y - 1, size + 2, size + 2);
  }
}
