import { keyOf, type Shown } from '../devices';
import { href } from '../route';
import type { Seen, Session } from '../session';
import { short, span, words } from '../text';
import { useFleet, useNow, useSeen } from '../use';

const PUSH = ['started', 'backing_up', 'pushing', 'settling', 'verifying', 'committed'];
const FIRMWARE = ['downloading', 'uploading', 'rebooting', 'verifying', 'completed'];
const FAILED = ['failed', 'reverted'];

interface Job {
  readonly key: string;
  readonly tenant_id: string;
  readonly device_id?: string;
  readonly stage?: string;
  readonly message?: string;
  readonly timestamp?: string;
  readonly target_version?: string;
}

/** Configuration pushes and firmware jobs: what is under way, and what came to its end while this page was open. */
export function WorkPage({ session }: { session: Session }) {
  const fleet = useFleet(session);
  useSeen(session);
  return <Work fleet={fleet} now={useNow(1_000)} seen={session.seen} />;
}

/** What is under way in `fleet`, with its age at `now`; and, of `seen`, what came to its end. */
export function Work({ fleet, now, seen }: { fleet: Shown; now: number; seen: readonly Seen[] }) {
  return (
    <>
      <Jobs
        fleet={fleet}
        now={now}
        seen={seen}
        title="Configuration pushes"
        type="config_push"
        stages={PUSH}
        living={fleet.pushes}
      />
      <Jobs
        fleet={fleet}
        now={now}
        seen={seen}
        title="Firmware"
        type="firmware_progress"
        stages={FIRMWARE}
        living={fleet.firmware}
      />
    </>
  );
}

const MOST_JOBS = 100;

function Jobs(given: {
  fleet: Shown;
  now: number;
  seen: readonly Seen[];
  title: string;
  type: string;
  stages: readonly string[];
  living: ReadonlyMap<string, Omit<Job, 'key'>>;
}) {
  const { fleet, now, title, type, stages, living } = given;
  const jobs: Job[] = [...living].slice(0, MOST_JOBS).map(([key, data]) => ({ ...data, key }));
  const isOver = (stage: string | undefined) => stage === stages.at(-1) || FAILED.includes(stage ?? '');
  const ended = given.seen
    .filter(({ event }) => event.type === type && isOver(words(event.data['stage'])))
    .slice(-20)
    .reverse()
    .map(({ event }) => ({ ...(event.data as Omit<Job, 'key'>), key: event.id }));
  const row = (job: Job) => {
    const device = keyOf(job);
    const place = stages.indexOf(job.stage ?? '');
    const hasFailed = FAILED.includes(job.stage ?? '');
    return (
      <li key={job.key} class="job">
        <a href={href('device', { key: device })}>
          {fleet.devices.get(device)?.name ?? short(job.device_id ?? '')}
        </a>
        <ol class={hasFailed ? 'stages failed' : 'stages'} aria-label={`Stage: ${words(job.stage)}`}>
          {stages.map((stage, index) => (
            <li key={stage} class={index < place ? 'done' : index === place ? 'now' : ''} aria-hidden="true">
              <span>{stage.replaceAll('_', ' ')}</span>
            </li>
          ))}
        </ol>
        <span class="hint">
          {hasFailed && <b class="bad">{job.stage} </b>}
          {job.target_version ? `to ${job.target_version} ` : ''}
          {job.timestamp ? `${span(now - Date.parse(job.timestamp))} ago` : ''}
        </span>
      </li>
    );
  };
  return (
    <section>
      <h2>{title}</h2>
      {jobs.length === 0 ? <p class="empty">Nothing is under way.</p> : <ul class="jobs">{jobs.map(row)}</ul>}
      {living.size > MOST_JOBS && <p class="hint">{(living.size - MOST_JOBS).toLocaleString()} more.</p>}
      {ended.length > 0 && (
        <>
          <h3>Ended since this page was opened</h3>
          <ul class="jobs ended">{ended.map(row)}</ul>
        </>
      )}
    </section>
  );
}
