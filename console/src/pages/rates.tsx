import { Plot } from '../plot';
import { type Kind, mean } from '../rates';
import type { Session } from '../session';
import { short } from '../text';
import { useNow } from '../use';

/** How many plots of a kind are shown; the table has all. */
const MOST_PLOTS = 6;

/** How much is published, as this page's stream brings it: in all, by type and by tenant. */
export function RatesPage({ session }: { session: Session }) {
  const now = useNow(1_000);
  const all = session.rates.course('all', '', now);
  const peak = Math.max(0, ...all.values.map((value) => value ?? 0));
  return (
    <>
      <div class="figures">
        <Rate name="events/s" value={mean(all.values, 10)} />
        <Rate name="over a minute" value={mean(all.values, 60)} />
        <Rate name="over 15 minutes" value={mean(all.values, all.values.length)} />
        <Rate name="highest second" value={all.values.length > 0 ? peak : undefined} />
      </div>
      <Plot title="All events" unit="/s" at={all.at} values={all.values} height={200} />
      <p class="hint">
        What this page’s stream brought since the page was opened, over at most 15 minutes. The line is broken
        where the stream was; what was missed then comes at once. A page that lags may be given only the
        latest of its measurements.
      </p>
      <Parts session={session} kind="type" title="By type" now={now} />
      {session.login.tenant === null && <Parts session={session} kind="tenant" title="By tenant" now={now} />}
    </>
  );
}

function Parts(given: { session: Session; kind: Kind; title: string; now: number }) {
  const { session, kind, title, now } = given;
  const parts = session.rates
    .names(kind)
    .map((name) => {
      const course = session.rates.course(kind, name, now);
      return { name, ...course, minute: mean(course.values, 60) ?? 0 };
    })
    .sort((one, other) => other.minute - one.minute || (one.name < other.name ? -1 : 1));
  const total = parts.reduce((sum, { minute }) => sum + minute, 0);
  if (parts.length === 0) return null;
  return (
    <section>
      <h2>{title}</h2>
      <div class="plots">
        {parts.slice(0, MOST_PLOTS).map(({ name, at, values }) => (
          <Plot key={name} title={short(name)} unit="/s" at={at} values={values} height={100} />
        ))}
      </div>
      <div class="scroll">
        <table class={`rates-${kind}`}>
          <thead>
            <tr>
              <th scope="col">{kind === 'type' ? 'Type' : 'Tenant'}</th>
              <th scope="col">10 s</th>
              <th scope="col">1 min</th>
              <th scope="col">15 min</th>
              <th scope="col">Share</th>
            </tr>
          </thead>
          <tbody>
            {parts.map(({ name, values, minute }) => (
              <tr key={name}>
                <th scope="row" title={name}>
                  {short(name)}
                </th>
                <td class="number">{written(mean(values, 10))}</td>
                <td class="number">{written(minute)}</td>
                <td class="number">{written(mean(values, values.length))}</td>
                <td class="number">
                  {total > 0 ? `${Math.round((100 * minute) / total)} %` : ''}
                  <meter
                    min={0}
                    max={total || 1}
                    value={minute}
                    aria-label={`${short(name)}: share of all`}
                  />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function Rate({ name, value }: { name: string; value: number | undefined }) {
  return (
    <p class="figure">
      <b>{written(value)}</b> <span>{name}</span>
    </p>
  );
}

function written(rate: number | undefined): string {
  if (rate === undefined) return '–';
  return rate < 10 ? rate.toFixed(1) : Math.round(rate).toLocaleString();
}
