import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import { clock } from './text';

/** A figure over time, with its latest value in words. */
export interface PlotOptions {
  readonly title: string;
  readonly unit: string;
  /** Seconds since the Unix epoch, ascending. */
  readonly at: readonly number[];
  /** `null` where nothing is known: the line is broken there. */
  readonly values: readonly (number | null)[];
  /** In pixels (120). */
  readonly height?: number;
}

export function Plot({ title, unit, at, values, height = 120 }: PlotOptions) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>();
  const last = values.findLast((value) => value !== null) ?? 0;
  useEffect(() => {
    const place = box.current;
    if (!place) return;
    const make = () => {
      plot.current?.destroy();
      plot.current = new uPlot(optionsOf(place, unit, height), [[], []], place);
    };
    make();
    const observer = new ResizeObserver(() => plot.current?.setSize({ width: place.clientWidth, height }));
    observer.observe(place);
    const media = matchMedia('(prefers-color-scheme: dark)');
    const repaint = () => {
      const data = plot.current?.data;
      make();
      if (data) plot.current?.setData(data);
    };
    media.addEventListener('change', repaint);
    return () => {
      media.removeEventListener('change', repaint);
      observer.disconnect();
      plot.current?.destroy();
    };
  }, []);
  useEffect(() => {
    plot.current?.setData([[...at], [...values]]);
  }, [at, values]);
  return (
    <figure class="plot">
      <figcaption>
        {title}{' '}
        <b>
          {last < 10 ? last.toFixed(1) : Math.round(last)} {unit}
        </b>{' '}
        <span class="hint">{clock((at.at(-1) ?? 0) * 1000)}</span>
      </figcaption>
      <div ref={box} aria-hidden="true" />
    </figure>
  );
}

function optionsOf(place: HTMLElement, unit: string, height: number): uPlot.Options {
  const style = getComputedStyle(place);
  const colour = (name: string) => style.getPropertyValue(`--${name}`);
  const axis = {
    stroke: colour('quiet'),
    grid: { stroke: colour('line'), width: 1 },
    ticks: { show: false },
    font: '11px system-ui',
  };
  return {
    width: place.clientWidth,
    height,
    legend: { show: false },
    cursor: { y: false },
    scales: {
      y:
        unit === '%'
          ? { range: [0, 100] }
          : { range: (_, low, high) => [Math.min(0, low), high > low ? high * 1.1 : low + 1] },
    },
    axes: [
      { ...axis, space: 80, size: 28, values: (_, at) => at.map((second) => clock(second * 1000)) },
      { ...axis, size: 44 },
    ],
    series: [
      {},
      { stroke: colour('accent'), width: 1.5, fill: colour('accent-wash'), points: { show: false } },
    ],
  };
}
