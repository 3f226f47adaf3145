import type { TidingsError } from '@tidings/client';
import { render } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import './console.css';
import 'uplot/dist/uPlot.min.css';
import { findMount } from './api';
import { forget, kept, type Login } from './login';
import { AlertsPage } from './pages/alerts';
import { AuditPage } from './pages/audit';
import { DevicePage } from './pages/device';
import { FeedPage, isOperator } from './pages/feed';
import { FleetPage } from './pages/fleet';
import { HandPage } from './pages/hand';
import { KeysPage } from './pages/keys';
import { StreamsPage, TenantsPage } from './pages/operate';
import { PastPage } from './pages/past';
import { RatesPage } from './pages/rates';
import { SignIn } from './pages/signin';
import { WorkPage } from './pages/work';
import { href, useRoute } from './route';
import { Session } from './session';
import { clock, short, span } from './text';
import { useNow, useNotices, usePart } from './use';

const PAGES: readonly { readonly name: string; readonly title: string; readonly forOperators?: boolean }[] = [
  { name: 'fleet', title: 'Fleet' },
  { name: 'alerts', title: 'Alerts' },
  { name: 'work', title: 'Pushes & firmware' },
  { name: 'feed', title: 'Events' },
  { name: 'past', title: 'History' },
  { name: 'rates', title: 'Rates' },
  { name: 'streams', title: 'Streams', forOperators: true },
  { name: 'tenants', title: 'Tenants', forOperators: true },
  { name: 'keys', title: 'API keys', forOperators: true },
  { name: 'audit', title: 'Audit', forOperators: true },
  { name: 'hand', title: 'By hand' },
];

function Console() {
  const [login, setLogin] = useState<Login | undefined>(kept);
  const [session, setSession] = useState<Session | undefined>();
  const [failure, setFailure] = useState<TidingsError | undefined>();
  useEffect(() => {
    if (login === undefined) {
      setSession(undefined);
      return;
    }
    let opened: Session | undefined;
    let isOver = false;
    void findMount(login).then((mount) => {
      if (isOver) return;
      opened = new Session(login, mount, (error) => {
        setFailure(error);
        if (error.failure === 'unauthorized') {
          forget();
          setLogin(undefined);
        }
      });
      setSession(opened);
    });
    return () => {
      isOver = true;
      opened?.close();
    };
  }, [login]);
  if (login === undefined)
    return (
      <SignIn
        failure={failure}
        onLogin={(given) => {
          setFailure(undefined);
          setLogin(given);
        }}
      />
    );
  if (session === undefined) return null;
  const leave = () => {
    forget();
    setLogin(undefined);
  };
  return <Shell session={session} failure={failure} onLeave={leave} />;
}

function Shell({
  session,
  failure,
  onLeave,
}: {
  session: Session;
  failure: TidingsError | undefined;
  onLeave: () => void;
}) {
  const route = useRoute();
  const isCurrent = usePart(session, (fleet) => fleet.connection.state === 'live' && fleet.isComplete);
  const alerts = usePart(session, (fleet) => fleet.alerts.size);
  const notices = useNotices(session);
  const pages = PAGES.filter(({ forOperators }) => !forOperators || isOperator(session));
  const title = PAGES.find(({ name }) => name === route.page)?.title ?? 'Device';
  useEffect(() => {
    document.title = `${title} · Tidings`;
  }, [title]);
  return (
    <div class={isCurrent ? 'shell' : 'shell old'}>
      <a class="skip" href="#content" onClick={(event) => skip(event)}>
        Skip to the content
      </a>
      <header class="bar">
        <h1>
          <a href={href('fleet')}>Tidings</a>
        </h1>
        <Line session={session} failure={failure} isPast={route.page === 'past'} />
        <span class="user" title={session.login.tenant ?? 'all tenants'}>
          {session.login.user} · {session.login.tenant ? short(session.login.tenant) : 'all tenants'}
        </span>
        <button type="button" onClick={onLeave}>
          Sign out
        </button>
      </header>
      <nav aria-label="Pages">
        {pages.map(({ name, title }) => (
          <a key={name} href={href(name)} aria-current={route.page === name ? 'page' : undefined}>
            {title}
            {name === 'alerts' && alerts > 0 && <b class="badge">{alerts}</b>}
          </a>
        ))}
        <a href="/docs">API</a>
      </nav>
      <main id="content" tabIndex={-1} data-page={route.page}>
        {notices.map((notice) => (
          <p class="strip notice" key={notice.at}>
            <time>{clock(notice.at)}</time> {notice.text}
          </p>
        ))}
        {route.page !== 'device' && <h2 class="hidden">{title}</h2>}
        {page(session, route)}
      </main>
    </div>
  );
}

function skip(event: Event): void {
  event.preventDefault();
  document.getElementById('content')?.focus();
}

function page(session: Session, route: ReturnType<typeof useRoute>) {
  switch (route.page) {
    case 'device':
      return <DevicePage key={route.query.get('key')} session={session} route={route} />;
    case 'alerts':
      return <AlertsPage session={session} />;
    case 'work':
      return <WorkPage session={session} />;
    case 'feed':
      return <FeedPage session={session} route={route} />;
    case 'past':
      return <PastPage session={session} route={route} />;
    case 'rates':
      return <RatesPage session={session} />;
    case 'streams':
      return <StreamsPage session={session} route={route} />;
    case 'tenants':
      return <TenantsPage session={session} />;
    case 'keys':
      return <KeysPage session={session} />;
    case 'audit':
      return <AuditPage session={session} route={route} />;
    case 'hand':
      return <HandPage login={session.login} mount={session.mount} />;
    default:
      return <FleetPage session={session} route={route} />;
  }
}

const SAID: Readonly<Record<string, string>> = {
  connecting: 'Connecting',
  live: 'Live',
  stale: 'The server brings nothing new',
  reconnecting: 'Connection lost, coming back',
  offline: 'No network',
  closed: 'Ended',
};

/** How it stands with the line, always in sight; neither old data nor the past looks live. */
function Line({
  session,
  failure,
  isPast,
}: {
  session: Session;
  failure: TidingsError | undefined;
  isPast: boolean;
}) {
  const connection = usePart(session, (fleet) => fleet.connection);
  const isComplete = usePart(session, (fleet) => fleet.isComplete);
  const now = useNow(1_000);
  const state = connection.state === 'live' && !isComplete ? 'mending' : connection.state;
  const age = connection.state === 'live' ? '' : ` · ${span(now - connection.since)}`;
  const said =
    failure?.message ?? (state === 'mending' ? 'Reading how things are' : (SAID[state] ?? connection.state));
  // Under `live` there is none, and what ended it for good is said already.
  const reason = failure === undefined && connection.state !== 'live' ? connection.reason : undefined;
  return (
    <p class={`line ${state}${isPast ? ' past' : ''}`} data-state={state}>
      <i aria-hidden="true" />
      <span role="status">{isPast && state === 'live' ? 'Looking back' : said}</span>
      {reason && <span class="reason">{reason}</span>}
      <span aria-hidden="true">{age}</span>
    </p>
  );
}

const place = document.getElementById('console');
if (place) render(<Console />, place);
