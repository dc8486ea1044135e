// Makes solc-js answer like the native compiler: `node solc_wrapper.js SOLJSON --standard-json < input.json`.
"use strict";
const path = require("path");
const soljson = require(path.resolve(process.argv[2]));

function run() {
  if (process.argv.includes("--version")) {
    const version = soljson.cwrap("solidity_version", "string", []);
    process.stdout.write(`solc, the solidity compiler commandline interface\nVersion: ${version()}\n`);
    return;
  }
  const compile = soljson.cwrap("solidity_compile", "string", ["string", "number", "number"]);
  process.stdout.write(compile(require("fs").readFileSync(0, "utf8"), 0, 0));
}

if (soljson.calledRun || soljson._solidity_compile) run();
else soljson.onRuntimeInitialized = run;
