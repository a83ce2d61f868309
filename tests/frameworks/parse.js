// node parse.js PARSER CONTENT_TYPE <BODY: prints what a parser finds in a body, as JSON.
// A parser that never ends causes no output.

"use strict";

const { createHash } = require("node:crypto");
const { Readable, Writable } = require("node:stream");
const { buffer } = require("node:stream/consumers");

const PARSERS = {
  busboy: async (request) => {
    const parts = [];
    const parser = require("busboy")({ headers: request.headers });
    parser.on("field", (name, value) => parts.push([name, undefined, value]));
    parser.on("file", (name, stream, { filename }) => {
      const part = buffer(stream).then((data) => [name, filename, data]);
      part.catch(() => {}); // the parser reports it as well
      parts.push(part);
    });
    await new Promise((resolve, reject) => {
      parser.on("close", resolve).on("error", reject);
      request.pipe(parser);
    });
    return Promise.all(parts);
  },

  formidable: async (request) => {
    const written = new Map();
    const parser = require("formidable").formidable({
      fileWriteStreamHandler: (file) => {
        const chunks = [];
        written.set(file, chunks);
        return new Writable({ write: (chunk, _, done) => (chunks.push(chunk), done()) });
      },
    });
    const [fields, files] = await parser.parse(request);
    const flat = (groups, data) =>
      Object.entries(groups).flatMap(([name, group]) =>
        group.map((one) => [name, one.originalFilename, data(one)]),
      );
    return [
      ...flat(fields, (value) => value),
      ...flat(files, (file) => Buffer.concat(written.get(file))),
    ];
  },
};

async function main(parser, contentType) {
  const body = await buffer(process.stdin);
  const headers = { "content-type": contentType, "content-length": String(body.length) };
  const parts = await PARSERS[parser](Object.assign(Readable.from([body]), { headers }));
  const found = parts.map(([name, filename = null, text]) => {
    const data = Buffer.from(text);
    const sha256 = createHash("sha256").update(data).digest("hex");
    return { name, filename, size: data.length, sha256 };
  });
  console.log(JSON.stringify(found));
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(String(error));
  process.exitCode = 1;
});
