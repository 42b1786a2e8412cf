// A service whose SDK is steered by Jaeger remote sampling: node steer.mjs SAMPLING_URL OTLP_GRPC_URL SERVICE. For each line "OPERATION N" it makes N root spans, each with
// a child, and prints how many roots were sampled; spans go out by OTLP/gRPC. "end" flushes and ends.
import { createInterface } from 'node:readline';
import { ROOT_CONTEXT, trace } from '@opentelemetry/api';
import { NodeTracerProvider } from '@opentelemetry/sdk-trace-node';
import { AlwaysOffSampler, BatchSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { JaegerRemoteSampler } from '@opentelemetry/sampler-jaeger-remote';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-grpc';
import { resourceFromAttributes } from '@opentelemetry/resources';

const [endpoint, url, serviceName] = process.argv.slice(2);
let failed = 0;
class Watched extends OTLPTraceExporter {
	export(spans, done) { super.export(spans, r => { if (r.code) { failed++; console.error(r.error); } done(r); }); }
}
const provider = new NodeTracerProvider({
	resource: resourceFromAttributes({ 'service.name': serviceName }),
	sampler: new JaegerRemoteSampler({ endpoint, serviceName, initialSampler: new AlwaysOffSampler(), poolingInterval: 100 }),
	spanProcessors: [new BatchSpanProcessor(new Watched({ url }), { maxQueueSize: 100000, scheduledDelayMillis: 50 })],
});
const tracer = provider.getTracer('steered');
console.log('ready');
for await (const line of createInterface({ input: process.stdin })) {
	if (line === 'end') break;
	const [operation, n] = line.split(' ');
	let sampled = 0;
	for (let i = 0; i < Number(n); i++) {
		const root = tracer.startSpan(operation, {}, ROOT_CONTEXT);
		sampled += root.spanContext().traceFlags & 1;
		tracer.startSpan('inside', {}, trace.setSpan(ROOT_CONTEXT, root)).end();
		root.end();
	}
	console.log(sampled);
}
await provider.forceFlush();
await provider.shutdown();
console.log(JSON.stringify({ failed }));
process.exit(0);
