//! The filter of a provider's cluster, once per attempt: gives the request the path and the model's name that this
//! provider expects, leaving every other byte of the body as it was. Where attempts are translated behind it, it also
//! takes what the service says of the answer's headers.
const std = @import("std");
const abi = @import("abi.zig");
const requests = @import("request.zig");
const translated = @import("translated.zig");

const memory = std.heap.c_allocator;

/// Request headers are shared by all attempts, so the client's path is kept where every attempt finds it.
const path_header = "x-envoy-original-path";
/// What begins the paths of clients: providers have their own.
const version_prefix = "/v1";

/// The configuration's lines: the cluster that this is, and the provider's base path. Then, if they are needed, the
/// `api-version` of a provider whose paths hold the model's name, and for attempts that are translated, how many bytes of
/// a body may be held.
pub const Config = struct {
    text: []const u8,
    cluster: []const u8,
    base_path: []const u8,
    api_version: []const u8,
    translated: ?u64,

    /// Null for a text of one line, or of a wrong one.
    pub fn read(text: []const u8) ?Config {
        const copy = memory.dupe(u8, text) catch return null;
        return readCopy(copy) orelse {
            memory.free(copy);
            return null;
        };
    }

    fn readCopy(text: []const u8) ?Config {
        var lines = std.mem.splitScalar(u8, text, '\n');
        var made: Config = .{
            .text = text,
            .cluster = lines.first(),
            .base_path = lines.next() orelse return null,
            .api_version = lines.next() orelse "",
            .translated = null,
        };
        if (lines.next()) |count| made.translated = std.fmt.parseInt(u64, count, 10) catch return null;
        return made;
    }

    pub fn free(self: Config) void {
        memory.free(self.text);
    }
};

pub const Filter = struct {
    stream: abi.Stream,
    config: *const Config,
    /// Whether the answer's headers went on.
    begun: bool = false,

    pub fn onHeaders(self: *Filter) !void {
        if (self.config.translated) |limit| abi.setBufferLimit(self.stream, limit);
        translated.reopen(self.stream);
        if (abi.header(self.stream, .request, path_header).len == 0)
            abi.setHeader(self.stream, .request, path_header, abi.header(self.stream, .request, ":path"));
        if (self.config.api_version.len > 0) return; // the path has to wait for the model's name
        const own = try std.mem.concat(memory, u8, &.{ self.config.base_path, self.rest() });
        defer memory.free(own);
        abi.setHeader(self.stream, .request, ":path", own);
    }

    pub fn wantsBody(self: *Filter) bool {
        return self.config.api_version.len > 0 or self.modelName() != null;
    }

    pub fn onRequest(self: *Filter, parts: []const abi.Body) !void {
        const name = self.modelName() orelse "";
        var copy: std.ArrayList(u8) = .empty;
        defer copy.deinit(memory);
        const body = try abi.body(self.stream, parts, memory, &copy);
        const asked = requests.read(body, abi.header(self.stream, .request, "content-type"));
        if (self.config.api_version.len > 0) {
            var room: [256]u8 = undefined;
            const own = if (asked) |found| requests.modelName(body, found, &room) orelse "" else "";
            try self.setDeployment(if (name.len > 0) name else own);
        }
        if (self.modelName() == null) return;
        var length = body.len;
        // "": as the client wrote it.
        if (name.len > 0) if (asked) |found| {
            const changed = try requests.changed(memory, body, .{ .span = found.name, .text = name }, null);
            defer memory.free(changed);
            abi.replaceBody(self.stream, parts, changed);
            length = changed.len;
        };
        // Another attempt may have left the length of its own body.
        try abi.setCount(self.stream, "content-length", length);
    }

    /// Azure's paths: BASE/deployments/MODEL/chat/completions?api-version=VERSION.
    fn setDeployment(self: *Filter, model: []const u8) !void {
        var path: std.ArrayList(u8) = .empty;
        defer path.deinit(memory);
        try path.appendSlice(memory, self.config.base_path);
        try path.appendSlice(memory, "/deployments/");
        for (model) |byte| {
            if (std.ascii.isAlphanumeric(byte) or std.mem.indexOfScalar(u8, "-._~", byte) != null) {
                try path.append(memory, byte);
            } else {
                try path.print(memory, "%{X:0>2}", .{byte});
            }
        }
        const end = std.mem.indexOfScalar(u8, self.rest(), '?') orelse self.rest().len;
        try path.appendSlice(memory, self.rest()[0..end]);
        try path.appendSlice(memory, "?api-version=");
        try path.appendSlice(memory, self.config.api_version);
        abi.setHeader(self.stream, .request, ":path", path.items);
    }

    /// The client's path behind the version.
    fn rest(self: *Filter) []const u8 {
        const path = abi.header(self.stream, .request, path_header);
        return path[@min(path.len, version_prefix.len)..];
    }

    /// The headers of an answer that is translated wait for what becomes of them. One without a body stays as it is.
    pub fn onAnswer(self: *Filter, ends: bool) c_int {
        self.begun = ends or self.config.translated == null;
        if (!self.begun) return abi.hold_headers;
        // Nothing is no success.
        if (self.config.translated != null and std.mem.startsWith(u8, abi.header(self.stream, .response, ":status"), "2"))
            abi.setHeader(self.stream, .response, ":status", "502");
        return abi.proceed;
    }

    pub fn onAnswerBody(self: *Filter, ends: bool) !c_int {
        const arrived: []const abi.Body = &.{.received_response};
        if (self.config.translated == null) return abi.proceed;
        if (!self.begun) {
            if (!ends and abi.isEmpty(self.stream, .received_response)) return abi.hold_body;
            self.begun = true;
            if (try translated.take(self.stream, .response, arrived) == null) {
                abi.endStream(self.stream, translated.not_translated);
                return abi.hold_body;
            }
        }
        // What comes later than the provider's end goes on together with the end. For Envoy 1.40 then lets go of the
        // provider first: a client that is slow to read would have it pause a provider that is gone, and crash.
        return if (!ends and translated.isDone(self.stream)) abi.hold_body else abi.proceed;
    }

    pub fn onAnswerTrailers(self: *Filter) c_int {
        if (self.begun) return abi.proceed;
        abi.endStream(self.stream, translated.not_translated);
        return abi.hold_body;
    }

    fn modelName(self: *Filter) ?[]const u8 {
        return abi.routeMetadata(self.stream, "attempt", self.config.cluster);
    }
};
