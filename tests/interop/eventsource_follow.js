// Follows a stream with npm's eventsource and prints each event as one line of JSON. The client
// comes back by itself and sends its own Last-Event-ID; only the access token is put in by us.
import { EventSource } from 'eventsource'

const types = ['cursor', 'gap', 'closing', 'device_status', 'metric_update', 'alert_fired']
const authorization = `Bearer ${process.env.ACCESS_TOKEN}`

const source = new EventSource(process.env.STREAM_URL, {
  fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, authorization } }),
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
