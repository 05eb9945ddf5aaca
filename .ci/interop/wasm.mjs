// A Python of WebAssembly, for a version that this machine has no interpreter of. It has sockets, and no threads.
//
//     node wasm.mjs FILE < PROGRAM     in a folder where `npm ci` has run; FILE is what the program may import

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const resolved = createRequire(path.join(process.cwd(), 'package.json')).resolve('pyodide/pyodide.mjs');
const { loadPyodide } = await import(pathToFileURL(resolved));
const python = await loadPyodide();
await python.useNodeSockFS();
python.FS.writeFile(`${python.FS.cwd()}/${path.basename(process.argv[2])}`, readFileSync(process.argv[2]));
await python.runPythonAsync(readFileSync(0, 'utf8'));
process.exit(0);  // an idle connection keeps the event loop busy
