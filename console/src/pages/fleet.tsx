import type { Fleet } from '@tidings/client/fleet';
import { useMemo, useRef } from 'preact/hooks';
import { type Device, matches, Roster, type Shown } from '../devices';
import { amend, href, type Route } from '../route';
import type { Session } from '../session';
import { short } from '../text';
import { useFleet } from '../use';
import { Cells } from './cells';

/** The fleet at a glance, as it is. */
export function FleetPage({ session, route }: { session: Session; route: Route }) {
  const fleet = useFleet(session);
  const open = ({ key }: Device) => (location.hash = href('device', { key }));
  return (
    <FleetView
      fleet={fleet}
      route={route}
      isOfAll={session.login.tenant === null}
      empty={emptyText(fleet)}
      onOpen={open}
      linkOf={({ key }) => href('device', { key })}
      links={{ down: href('fleet', { search: 'down' }), alerts: href('alerts'), work: href('work') }}
    />
  );
}

/** A cell for each device, in groups; and as a list, for those who read rather than look. */
export function FleetView({
  fleet,
  route,
  isOfAll,
  empty,
  onOpen,
  linkOf,
  links,
}: {
  fleet: Shown;
  route: Route;
  isOfAll: boolean;
  /** What is said where there is no device at all. */
  empty: string;
  onOpen: (device: Device) => void;
  linkOf: (device: Device) => string;
  links: { down: string; alerts: string; work: string };
}) {
  const search = route.query.get('search') ?? '';
  const asList = route.query.get('as') === 'list';
  const byTenant = (route.query.get('by') ?? (isOfAll ? 'tenant' : 'site')) === 'tenant';
  const roster = useRef<Roster>();
  const all = (roster.current ??= new Roster()).list(fleet, byTenant);
  const shown = useMemo(
    () => (search === '' ? all : all.filter((device) => matches(device, search))),
    [all, search],
  );
  const count = { up: 0, down: 0, unknown: 0 };
  for (const { health } of all) count[health] += 1;
  return (
    <>
      <div class="figures">
        <Figure name={all.length === 1 ? 'device' : 'devices'} value={all.length} />
        <Figure name="up" value={count.up} tone="up" />
        <Figure name="down" value={count.down} tone={count.down > 0 ? 'down' : ''} link={links.down} />
        {count.unknown > 0 && <Figure name="unknown" value={count.unknown} />}
        <Figure
          name={fleet.alerts.size === 1 ? 'alert open' : 'alerts open'}
          value={fleet.alerts.size}
          tone={fleet.alerts.size > 0 ? 'alert' : ''}
          link={links.alerts}
        />
        <Figure name="under way" value={fleet.pushes.size + fleet.firmware.size} link={links.work} />
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
        <p class="empty">{all.length === 0 ? empty : 'No device matches.'}</p>
      ) : asList ? (
        <DeviceList devices={shown} linkOf={linkOf} />
      ) : (
        <Cells devices={shown} onOpen={onOpen} />
      )}
    </>
  );
}

function emptyText({ isComplete }: Fleet): string {
  return isComplete ? 'No device has told its status yet.' : 'Reading how things are …';
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

const MOST_ROWS = 250;

function DeviceList({ devices, linkOf }: { devices: readonly Device[]; linkOf: (device: Device) => string }) {
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
                <a href={linkOf(device)}>{device.name}</a>
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
