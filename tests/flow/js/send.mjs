// Sends spans to an OTLP endpoint with the real OpenTelemetry SDK: node send.mjs URL proto|json [gzip]. Prints what it sent, for the test to compare.
import { SpanKind, SpanStatusCode, trace, context, ROOT_CONTEXT } from '@opentelemetry/api';
import { BasicTracerProvider, BatchSpanProcessor, ParentBasedSampler, AlwaysOnSampler } from '@opentelemetry/sdk-trace-base';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { OTLPTraceExporter as Proto } from '@opentelemetry/exporter-trace-otlp-proto';
import { OTLPTraceExporter as Json } from '@opentelemetry/exporter-trace-otlp-http';

const [url, form, gzip] = process.argv.slice(2);
const results = [];
class Watched extends (form === 'proto' ? Proto : Json) {
	export(spans, done) { super.export(spans, r => { results.push(r); done(r); }); }
}
const provider = new BasicTracerProvider({
	resource: resourceFromAttributes({ 'service.name': 'js-shop', 'service.version': '1.2.3', 'deployment.environment.name': 'prüfung' }),
	sampler: new ParentBasedSampler({ root: new AlwaysOnSampler() }),
	spanProcessors: [new BatchSpanProcessor(new Watched({ url, compression: gzip === 'gzip' ? 'gzip' : 'none' }))],
});
const tracer = provider.getTracer('js-shop-tracer', '4.5.6');
const start = Date.now();
const other = { traceId: '0af7651916cd43dd8448eb211c80319c', spanId: 'b7ad6b7169203331', traceFlags: 1 };
const root = tracer.startSpan('GET /checkout', {
	kind: SpanKind.SERVER, startTime: start, links: [{ context: other, attributes: { why: 'batch', n: 7 } }],
	attributes: { 'http.request.method': 'GET', 'http.response.status_code': 500, ratio: 0.1, big: Number.MAX_SAFE_INTEGER, negative: -5, yes: true, no: false,
		'text': 'Grüße, 世界 \u{1f600} "quoted" \\ \n', 'list.s': ['a', '', 'ü'], 'list.i': [1, -2, 3], 'list.d': [0.5, 1e300], 'list.b': [true, false], empty: '' },
}, ROOT_CONTEXT);
root.addEvent('exception', { 'exception.type': 'TypeError', 'exception.message': 'x is not a function', n: 1 }, start + 2);
root.addEvent('retry', {}, start + 3);
root.setStatus({ code: SpanStatusCode.ERROR, message: 'it broke – twice' });
const child = tracer.startSpan('SELECT cart', { kind: SpanKind.CLIENT, startTime: start + 1, attributes: { 'db.system.name': 'sqlite' } }, trace.setSpan(context.active(), root));
child.setStatus({ code: SpanStatusCode.OK });
child.end(start + 4);
root.end(start + 10);
for (let i = 0; i < 1000; i++) {
	const s = tracer.startSpan('loop', { kind: SpanKind.INTERNAL, startTime: start, attributes: { i } }, ROOT_CONTEXT);
	s.end(start + i);
}
await provider.forceFlush();
await provider.shutdown();
const failed = results.filter(r => r.code !== 0);
console.log(JSON.stringify({ trace: root.spanContext().traceId, root: root.spanContext().spanId, child: child.spanContext().spanId, start,
	exports: results.length, failed: failed.map(r => String(r.error)) }));
process.exit(failed.length ? 1 : 0);
