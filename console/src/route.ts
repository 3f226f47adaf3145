import { useLayoutEffect, useState } from 'preact/hooks';

/** Where the console is: a page and what it is asked to show, both in the address, so that a link shows the same. */
export interface Route {
  readonly page: string;
  readonly query: URLSearchParams;
}

export function readRoute(): Route {
  const [page = '', query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  return { page: page === '' || page.includes('=') ? 'fleet' : page, query: new URLSearchParams(query) };
}

export function href(page: string, query: Record<string, string | undefined> = {}): string {
  const given = Object.entries(query).filter((entry): entry is [string, string] => !!entry[1]);
  return `#/${page}${given.length > 0 ? `?${new URLSearchParams(given).toString()}` : ''}`;
}

export function useRoute(): Route {
  const [route, setRoute] = useState(readRoute);
  // At once: an address that changes before the next paint would be missed.
  useLayoutEffect(() => {
    const follow = () => setRoute(readRoute());
    addEventListener('hashchange', follow);
    return () => removeEventListener('hashchange', follow);
  }, []);
  return route;
}

/** Changes one word of the query in the address, without a step in the history. */
export function amend(route: Route, name: string, value: string): void {
  amendAll(route, { [name]: value });
}

/** Changes words of the query in the address; an empty one is taken out. */
export function amendAll(route: Route, words: Readonly<Record<string, string>>): void {
  const query = Object.fromEntries(route.query);
  history.replaceState(null, '', href(route.page, { ...query, ...words }));
  dispatchEvent(new HashChangeEvent('hashchange'));
}
