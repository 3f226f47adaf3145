// Follows a stream with npm's eventsource and prints each event as one line of JSON. The client
// comes back by itself and sends its own Last-Event-ID; only the access token is put in by us.
import { EventSource } from 'eventsource'

const types = ['cursor', 'gap', 'closing', 'device_status', 'metric_update', 'alert_fired']
const authorization = `Bearer ${process.env.ACCESS_TOKEN}`

const source = new EventSource(process.env.STREAM_URL, {
  fetch: async (url, init) => {
    const response = await fetch(url, { ...init, headers: { ...init.headers, authorization } })
    // A server that is about to stop answers so for as long as it listens. The client would give up, and comes back
    // from what it takes for a broken connection.
    if (response.status === 503) {
      await response.body?.cancel()
      throw new Error('503')
    }
    return response
  },
})
for (const type of types) {
  source.addEventListener(type, (event) => {
    console.log(JSON.stringify({ id: event.lastEventId, event: type, data: event.data }))
  })
}
source.addEventListener('message', (event) => {
  console.log(JSON.stringify({ id: event.lastEventId, event: 'message', data: event.data }))
})
source.addEventListener('error', (error) => {
  console.error(error.code, error.message)
  if (source.readyState === EventSource.CLOSED) process.exit(1)
})
