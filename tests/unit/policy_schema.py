#!/usr/bin/python3
"""The published JSON Schema and the parser, held against each other over the golden policies: what the parser takes the schema takes; what has the wrong
shape, an unknown key or a value that is none, both refuse. By a small validator of what the schema uses, and by python's jsonschema where it is installed."""
import json
import re
import subprocess
import sys

# What a schema can see. The others are about meaning: TraceQL, double keys and names, order, ranges.
SHAPE = {"P110", "P111", "P113", "P114", "P120", "P140", "P141", "P142", "P146", "P147"}
TYPES = {"object": dict, "array": list, "string": str, "number": (int, float)}
KNOWN = {"$ref", "$schema", "$id", "$defs", "title", "description", "examples", "default", "type", "properties", "additionalProperties", "required", "items", "maxItems",
	"minProperties", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "oneOf"}


def problems(schema, value, root, at="$"):
	unknown = set(schema) - KNOWN
	assert not unknown, f"the validator here does not know {unknown}"
	if "$ref" in schema:
		yield from problems(root["$defs"][schema["$ref"].rsplit("/", 1)[1]], value, root, at)
	if "type" in schema and (not isinstance(value, TYPES[schema["type"]]) or isinstance(value, bool)):
		yield f"{at}: {value!r} is no {schema['type']}"
		return
	if "enum" in schema and value not in schema["enum"]:
		yield f"{at}: {value!r} is none of {schema['enum']}"
	if "oneOf" in schema and sum(not list(problems(s, value, root, at)) for s in schema["oneOf"]) != 1:
		yield f"{at}: {value!r} is not one of the alternatives"
	if isinstance(value, str):
		if "pattern" in schema and not re.search(schema["pattern"], value):
			yield f"{at}: {value!r} is not {schema['pattern']}"
		if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 1 << 30):
			yield f"{at}: length {len(value)}"
	if isinstance(value, (int, float)) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
		yield f"{at}: {value} is out of range"
	if isinstance(value, list):
		if len(value) > schema.get("maxItems", len(value)):
			yield f"{at}: {len(value)} items"
		for i, v in enumerate(value):
			yield from problems(schema.get("items", {}), v, root, f"{at}[{i}]")
	if isinstance(value, dict):
		for key in schema.get("required", []):
			if key not in value:
				yield f"{at}: no {key}"
		if len(value) < schema.get("minProperties", 0):
			yield f"{at}: too few keys"
		for key, v in value.items():
			if key in schema.get("properties", {}):
				yield from problems(schema["properties"][key], v, root, f"{at}.{key}")
			elif schema.get("additionalProperties") is False:
				yield f"{at}: unknown key {key}"


def described(schema, root, at):
	"""Editors show a description for every key."""
	for key, s in schema.get("properties", {}).items():
		target = root["$defs"][s["$ref"].rsplit("/", 1)[1]] if "$ref" in s else s
		assert s.get("description") or target.get("description"), f"{at}.{key} has no description"
		for example in s.get("examples", []) + target.get("examples", []):
			assert not list(problems(s, example, root)), f"{at}.{key}: its example {example!r} is refused"
		described(target.get("items", {}) if target.get("type") == "array" else target, root, f"{at}.{key}")
		if "$ref" in target.get("items", {}):
			described(root["$defs"][target["items"]["$ref"].rsplit("/", 1)[1]], root, f"{at}.{key}[]")


def main():
	with open(sys.argv[2], encoding="utf-8") as f:
		schema = json.load(f)
	described(schema, schema, "policy")
	golden = json.loads(subprocess.run([sys.argv[1], "--golden-as-json"], capture_output=True, check=True, timeout=60).stdout)
	try:
		import jsonschema
		jsonschema.Draft202012Validator.check_schema(schema)
		peer = jsonschema.Draft202012Validator(schema)
	except ImportError:
		peer = None
	taken = refused = 0
	for case in golden:
		codes, found = set(case["codes"]), list(problems(schema, case["document"], schema))
		if peer and bool(found) == peer.is_valid(case["document"]):
			sys.exit(f"{case['title']}: jsonschema says otherwise than the validator here: {found}")
		if codes & SHAPE:
			refused += 1
			if not found:
				sys.exit(f"{case['title']}: the parser refuses it ({sorted(codes & SHAPE)}), the schema does not")
		elif not [c for c in codes if c < "P2"]:
			taken += 1
			if found:
				sys.exit(f"{case['title']}: the parser takes it, the schema says {found}")
	assert taken >= 6 and refused >= 15, (taken, refused)
	print(f"{len(golden)} documents: {taken} taken by both, {refused} refused by both; jsonschema {'agrees' if peer else 'is not installed'}")


main()
