import type { TidingsError } from '@tidings/client';
import { render } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import './console.css';
import 'uplot/dist/uPlot.min.css';
import { findMount } from './api';
import { forget, keep, kept, type Login } from './login';
import { AlertsPage } from './pages/alerts';
import { DevicePage } from './pages/device';
import { FeedPage, isOperator } from './pages/feed';
import { FleetPage } from './pages/fleet';
import { HandPage } from './pages/hand';
import { StreamsPage, TenantsPage } from './pages/operate';
import { PastPage } from './pages/past';
import { WorkPage } from './pages/work';
import { href, useRoute } from './route';
import { Session } from './session';
import { clock, short, span } from './text';
import { useFleet, useNow, useSeen } from './use';

const PAGES: readonly { readonly name: string; readonly title: string; readonly forOperators?: boolean }[] = [
  { name: 'fleet', title: 'Fleet' },
  { name: 'alerts', title: 'Alerts' },
  { name: 'work', title: 'Pushes & firmware' },
  { name: 'feed', title: 'Events' },
  { name: 'past', title: 'History' },
  { name: 'streams', title: 'Streams', forOperators: true },
  { name: 'tenants', title: 'Tenants', forOperators: true },
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

function SignIn({
  failure,
  onLogin,
}: {
  failure: TidingsError | undefined;
  onLogin: (login: Login) => void;
}) {
  const [trouble, setTrouble] = useState('');
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    const token = new FormData(event.currentTarget as HTMLFormElement).get('token');
    const login = keep(typeof token === 'string' ? token : '');
    if (login) onLogin(login);
    else setTrouble('This is no access token: a JWT has three parts with dots between them.');
  };
  return (
    <main class="signin">
      <form onSubmit={submit}>
        <h1>Tidings</h1>
        {failure && (
          <p class="bad" role="alert">
            {failure.message}
          </p>
        )}
        <label for="token">Access token</label>
        <textarea
          id="token"
          name="token"
          rows={5}
          autocomplete="off"
          autocapitalize="off"
          spellcheck={false}
          required
          autofocus
        />
        {trouble && (
          <p class="bad" role="alert">
            {trouble}
          </p>
        )}
        <p class="hint">
          The JWT of a login or, for development, what <code>tidings token</code> prints. It stays in this tab
          and is forgotten with it.
        </p>
        <button type="submit" class="primary">
          Sign in
        </button>
      </form>
      <p class="hint">
        <a href="/docs">API</a>
      </p>
    </main>
  );
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
  const fleet = useFleet(session);
  useSeen(session);
  const { state } = fleet.connection;
  const isCurrent = state === 'live' && fleet.isComplete;
  const pages = PAGES.filter(({ forOperators }) => !forOperators || isOperator(session));
  const title = PAGES.find(({ name }) => name === route.page)?.title ?? 'Device';
  useEffect(() => {
    document.title = `${title} · Tidings`;
  }, [title]);
  const badge = fleet.alerts.size > 0 ? fleet.alerts.size : undefined;
  return (
    <div class={isCurrent ? 'shell' : 'shell old'}>
      <a class="skip" href="#content" onClick={(event) => skip(event)}>
        Skip to the content
      </a>
      <header class="bar">
        <h1>
          <a href={href('fleet')}>Tidings</a>
        </h1>
        <Line session={session} failure={failure} />
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
            {name === 'alerts' && badge !== undefined && <b class="badge">{badge}</b>}
          </a>
        ))}
        <a href="/docs">API</a>
      </nav>
      <main id="content" tabIndex={-1}>
        {session.notices.map((notice) => (
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
    case 'streams':
      return <StreamsPage session={session} />;
    case 'tenants':
      return <TenantsPage session={session} />;
    case 'hand':
      return <HandPage login={session.login} mount={session.mount} />;
    default:
      return <FleetPage session={session} route={route} />;
  }
}

const SAID: Readonly<Record<string, string>> = {
  connecting: 'Connecting',
  live: 'Live',
  stale: 'The server can’t read its log',
  reconnecting: 'Connection lost, coming back',
  offline: 'No network',
  closed: 'Ended',
};

/** How it stands with the line, always in sight; old data never looks live. */
function Line({ session, failure }: { session: Session; failure: TidingsError | undefined }) {
  const { connection, isComplete } = useFleet(session);
  const now = useNow(1_000);
  const isMending = connection.state === 'live' && !isComplete;
  const age = connection.state === 'live' ? '' : ` · ${span(now - connection.since)}`;
  const said =
    failure?.message ?? (isMending ? 'Reading how things are' : (SAID[connection.state] ?? connection.state));
  return (
    <p
      class={`line ${isMending ? 'connecting' : connection.state}`}
      data-state={isMending ? 'mending' : connection.state}
    >
      <i aria-hidden="true" />
      <span role="status">{said}</span>
      <span aria-hidden="true">{age}</span>
    </p>
  );
}

const place = document.getElementById('console');
if (place) render(<Console />, place);
