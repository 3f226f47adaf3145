// What the operating system says: of the machine, and of the browser's processes.
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';

const line = (program, ...args) => execFileSync(program, args, { encoding: 'utf8' }).trim();
const TICKS = Number(line('getconf', 'CLK_TCK'));

/** When, with what and on what was measured. */
export function machine() {
  const changed = line('git', 'status', '--porcelain', '--untracked-files=no', '--', '../crates', '.');
  const commit = line('git', 'rev-parse', '--short=12', 'HEAD');
  return {
    date: line('date', '-u', '+%Y-%m-%d %H:%M UTC'),
    commit: changed === '' ? commit : `${commit} with changes`,
    machine: `${cpus()[0].model}, ${cpus().length} cores, ${(totalmem() / 1e9).toFixed(1)} GB, Linux ${release()}`,
  };
}

function processes() {
  const found = new Map();
  for (const id of readdirSync('/proc').filter((name) => /^\d+$/.test(name)))
    try {
      // The name, in brackets, can hold anything.
      const fields = readFileSync(`/proc/${id}/stat`, 'utf8')
        .replace(/^.*\) /s, '')
        .split(' ');
      found.set(Number(id), {
        parent: Number(fields[1]),
        cpu: (Number(fields[11]) + Number(fields[12])) / TICKS,
        resident: (Number(fields[21]) * 4096) / 2 ** 20,
        kind: /--type=([\w-]+)/.exec(readFileSync(`/proc/${id}/cmdline`, 'utf8'))?.[1] ?? 'browser',
      });
    } catch {
      // It has ended meanwhile.
    }
  return found;
}

/** CPU seconds by kind of process, and resident MiB in all, of a process and of what descends from it. */
export function usageOf(root) {
  const all = processes();
  const isOurs = (id) => {
    for (let at = id; at > 1; at = all.get(at)?.parent ?? 0) if (at === root) return true;
    return false;
  };
  const usage = { cpu: {}, resident: 0 };
  for (const [id, { cpu, resident, kind }] of all)
    if (isOurs(id)) {
      usage.cpu[kind] = (usage.cpu[kind] ?? 0) + cpu;
      usage.resident += resident;
    }
  return usage;
}
