/** What an access token says of itself, for the page's own convenience: the server decides. */
export interface Login {
  readonly token: string;
  readonly user: string;
  /** `null`: all tenants. */
  readonly tenant: string | null;
  readonly role: string;
}

// This tab's alone: other tabs and what a browser keeps never see it, and only scripts of this server run here.
const KEPT = 'tidings.access_token';

/** The login of this tab: from the address's fragment, or kept from before a reload. */
export function kept(): Login | undefined {
  const given = new URLSearchParams(location.hash.slice(1)).get('token');
  // Neither the address bar nor the history keeps it.
  if (given !== null) history.replaceState(null, '', location.pathname + location.search);
  const token = given ?? sessionStorage.getItem(KEPT);
  return token === null ? undefined : keep(token);
}

/** Takes a token that somebody pasted; `undefined` where it is none. */
export function keep(token: string): Login | undefined {
  const claims = claimsOf(token.trim());
  if (claims === undefined) return undefined;
  sessionStorage.setItem(KEPT, token.trim());
  const { sub, tenant_id, role } = claims;
  return {
    token: token.trim(),
    user: typeof sub === 'string' ? sub : '?',
    tenant: typeof tenant_id === 'string' ? tenant_id : null,
    role: typeof role === 'string' ? role : '',
  };
}

export function forget(): void {
  sessionStorage.removeItem(KEPT);
}

function claimsOf(token: string): Record<string, unknown> | undefined {
  try {
    const part = token.split('.')[1]?.replaceAll('-', '+').replaceAll('_', '/') ?? '';
    const bytes = Uint8Array.from(atob(part), (letter) => letter.charCodeAt(0));
    const claims: unknown = JSON.parse(new TextDecoder().decode(bytes));
    return typeof claims === 'object' && claims !== null ? (claims as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
