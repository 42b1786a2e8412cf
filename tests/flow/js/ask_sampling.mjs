// Asks SamplingManager by gRPC: node ask_sampling.mjs HOST:PORT SERVICE [METHOD] [gzip]. Prints the answer, or the status.
import grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

const [address, serviceName, method = 'GetSamplingStrategy', gzip] = process.argv.slice(2);
const def = grpc.loadPackageDefinition(loadSync(new URL('sampling.proto', import.meta.url).pathname, { enums: String, defaults: true }));
const client = new def.jaeger.api_v2.SamplingManager(address, grpc.credentials.createInsecure(), gzip ? { 'grpc.default_compression_algorithm': 2 } : {});
client[method]({ serviceName }, { deadline: Date.now() + 10000 }, (error, answer) => {
	console.log(JSON.stringify(error ? { code: error.code, details: error.details } : answer));
	client.close();
});
