//! Headgate's filters for Envoy, as a dynamic module: what Envoy calls, by name. `model` is a filter of the listener,
//! `attempt` and `translated` are of a provider's cluster.
const std = @import("std");
const abi = @import("abi.zig");
const attempt = @import("attempt.zig");
const model = @import("model.zig");
const translated = @import("translated.zig");

const memory = std.heap.c_allocator;

const Config = union(enum) {
    model: model.Config,
    attempt: attempt.Config,
    translated: translated.Config,

    fn read(name: []const u8, text: []const u8) ?Config {
        inline for (@typeInfo(Config).@"union".fields) |field|
            if (std.mem.eql(u8, name, field.name))
                return @unionInit(Config, field.name, field.type.read(text) orelse return null);
        return null;
    }
};

const Filter = struct {
    kind: union(enum) { model: model.Filter, attempt: attempt.Filter, translated: translated.Filter },
    /// Whether the request's headers wait for its body.
    waits: bool = false,

    fn onRequest(self: *Filter, parts: []const abi.Body) c_int {
        switch (self.kind) {
            inline .model, .attempt => |*each| must(each.onRequest(parts)),
            .translated => |*each| return must(each.onRequest(parts)),
        }
        return abi.proceed;
    }
};

/// Envoy ends where it has no memory left; so does what runs in it.
fn must(result: anytype) @typeInfo(@TypeOf(result)).error_union.payload {
    return result catch @panic("headgate: out of memory");
}

export fn envoy_dynamic_module_on_program_init() [*:0]const u8 {
    return abi.version;
}

/// Null rejects the configuration: its name, or what it says, is unknown.
export fn envoy_dynamic_module_on_http_filter_config_new(_: *anyopaque, name: abi.Bytes, text: abi.Bytes) ?*Config {
    const config = Config.read(name.text(), text.text()) orelse return null;
    const kept = must(memory.create(Config));
    kept.* = config;
    return kept;
}

export fn envoy_dynamic_module_on_http_filter_config_destroy(config: *Config) void {
    if (config.* == .attempt) config.attempt.free();
    memory.destroy(config);
}

export fn envoy_dynamic_module_on_http_filter_new(config: *const Config, stream: abi.Stream) *Filter {
    const filter = must(memory.create(Filter));
    filter.* = .{ .kind = switch (config.*) {
        .model => |*each| .{ .model = .{ .stream = stream, .config = each } },
        .attempt => |*each| .{ .attempt = .{ .stream = stream, .config = each } },
        .translated => |*each| .{ .translated = .{ .stream = stream, .config = each } },
    } };
    return filter;
}

export fn envoy_dynamic_module_on_http_filter_destroy(filter: *Filter) void {
    if (filter.kind == .model) must(filter.kind.model.free());
    memory.destroy(filter);
}

export fn envoy_dynamic_module_on_http_filter_request_headers(_: abi.Stream, filter: *Filter, ends: bool) c_int {
    switch (filter.kind) {
        .model => filter.waits = !ends,
        .attempt => |*each| {
            must(each.onHeaders());
            filter.waits = !ends and each.wantsBody();
        },
        .translated => filter.waits = !ends,
    }
    return if (filter.waits) abi.hold_headers else abi.proceed;
}

export fn envoy_dynamic_module_on_http_filter_request_body(stream: abi.Stream, filter: *Filter, ends: bool) c_int {
    if (!filter.waits) return abi.proceed;
    if (!ends) return abi.hold_body;
    return filter.onRequest(abi.wholeRequest(stream));
}

export fn envoy_dynamic_module_on_http_filter_request_trailers(_: abi.Stream, filter: *Filter) c_int {
    const held: []const abi.Body = &.{.buffered_request};
    return if (filter.waits) filter.onRequest(held) else abi.proceed;
}

export fn envoy_dynamic_module_on_http_filter_response_headers(_: abi.Stream, filter: *Filter, ends: bool) c_int {
    switch (filter.kind) {
        .model => |*each| {
            if (ends) return abi.proceed;
            must(each.onAnswer());
            return if (each.holds) abi.hold_headers else abi.proceed;
        },
        .attempt => |*each| return each.onAnswer(ends),
        .translated => return abi.proceed,
    }
}

export fn envoy_dynamic_module_on_http_filter_response_body(_: abi.Stream, filter: *Filter, ends: bool) c_int {
    switch (filter.kind) {
        .model => |*each| must(each.onAnswerBody(ends)),
        .attempt => |*each| return must(each.onAnswerBody(ends)),
        .translated => |*each| must(each.onAnswerBody(ends)),
    }
    return abi.proceed;
}

export fn envoy_dynamic_module_on_http_filter_response_trailers(_: abi.Stream, filter: *Filter) c_int {
    switch (filter.kind) {
        .model => |*each| must(each.onAnswerTrailers()),
        .attempt => |*each| return each.onAnswerTrailers(),
        .translated => {},
    }
    return abi.proceed;
}

/// Comes before the access log is written.
export fn envoy_dynamic_module_on_http_filter_stream_complete(_: abi.Stream, filter: *Filter) void {
    if (filter.kind == .model) must(filter.kind.model.onEnd());
}

// Envoy asks for these by name, and calls them only for what this module never starts.
fn never() callconv(.c) void {}
comptime {
    for ([_][]const u8{
        "http_callout_done",    "http_stream_headers",                          "http_stream_data",
        "http_stream_trailers", "http_stream_complete",                         "http_stream_reset",
        "scheduled",            "downstream_above_write_buffer_high_watermark", "downstream_below_write_buffer_low_watermark",
    }) |name| @export(&never, .{ .name = "envoy_dynamic_module_on_http_filter_" ++ name });
}
