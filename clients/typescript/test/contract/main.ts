// npm run contract -- [PORT]
import { startService, urlOf } from './service.js';

const service = await startService(Number(process.argv[2] ?? 8000));
console.log(`the client can be driven at ${urlOf(service)}`);
