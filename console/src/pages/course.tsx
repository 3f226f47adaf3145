import type { Course as Counts } from '../past/timeline';

const HEIGHT = 40;

/** How many devices were down and how many alerts open over the time of the slider below; hatched where nothing was read. */
export function Course({
  course,
  from,
  to,
  read,
  at,
}: {
  course: Counts;
  from: number;
  to: number;
  read: readonly [number, number] | undefined;
  at: number;
}) {
  const places = course.down.length;
  const most = Math.max(1, ...course.down, ...course.alerts);
  const x = (time: number) => (places * (time - from)) / Math.max(1, to - from);
  const y = (count: number) => HEIGHT - 1 - (count / most) * (HEIGHT - 4);
  const [first, last] = read === undefined ? [0, 0] : [Math.max(0, x(read[0])), Math.min(places, x(read[1]))];
  const points = (counts: readonly number[], begin: number, end: number) =>
    counts
      .map((count, place) => [place, count] as const)
      .filter(([place]) => place >= Math.floor(begin) && place <= end)
      .map(([place, count]) => `${place.toFixed(1)},${y(count).toFixed(1)}`);
  const down = points(course.down, first, last);
  return (
    <svg class="course" viewBox={`0 0 ${places} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
      {first > 0 && <rect class="unread" x={0} y={0} width={first} height={HEIGHT} />}
      {last < places && <rect class="unread" x={last} y={0} width={places - last} height={HEIGHT} />}
      {down.length > 0 && (
        <polygon class="down" points={`${first},${HEIGHT} ${down.join(' ')} ${last},${HEIGHT}`} />
      )}
      <polyline class="open" points={points(course.alerts, 0, places).join(' ')} />
      <line class="at" x1={x(at)} x2={x(at)} y1={0} y2={HEIGHT} />
    </svg>
  );
}
