import type { TidingsError } from '@tidings/client';
import { useState } from 'preact/hooks';
import { fetchLogin, keep, type Login } from '../login';

/** Asks for an access token: pasted, or fetched from where this host's logins are. */
export function SignIn({
  failure,
  onLogin,
}: {
  failure: TidingsError | undefined;
  onLogin: (login: Login) => void;
}) {
  const [trouble, setTrouble] = useState('');
  const given = (event: SubmitEvent, name: string) => {
    event.preventDefault();
    const value = new FormData(event.currentTarget as HTMLFormElement).get(name);
    return typeof value === 'string' ? value : '';
  };
  const paste = (event: SubmitEvent) => {
    const login = keep(given(event, 'token'));
    if (login) onLogin(login);
    else setTrouble('This is no access token: a JWT has three parts with dots between them.');
  };
  const get = (event: SubmitEvent) => {
    setTrouble('');
    fetchLogin(given(event, 'source')).then(onLogin, (error: unknown) =>
      setTrouble((error as Error).message),
    );
  };
  return (
    <main class="signin">
      <h1>Tidings</h1>
      {failure && (
        <p class="bad" role="alert">
          {failure.message}
        </p>
      )}
      {trouble && (
        <p class="bad" role="alert">
          {trouble}
        </p>
      )}
      <form onSubmit={paste}>
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
        <p class="hint">
          The JWT of a login or, for development, what <code>tidings token</code> prints. It stays in this tab
          and is forgotten with it.
        </p>
        <button type="submit" class="primary">
          Sign in
        </button>
      </form>
      <form onSubmit={get}>
        <label for="source">Or fetch it from this host</label>
        <span class="beside">
          <input
            id="source"
            name="source"
            placeholder="/path/that/gives/a/token"
            defaultValue={new URLSearchParams(location.hash.slice(1)).get('fetch') ?? ''}
            autocomplete="off"
            spellcheck={false}
            required
          />
          <button type="submit">Fetch</button>
        </span>
        <p class="hint">
          With this host’s cookies: the token as text, or as JSON in <code>access_token</code>. A fresh one is
          fetched before it ends.
        </p>
      </form>
      <p class="hint">
        <a href="/docs">API</a>
      </p>
    </main>
  );
}
