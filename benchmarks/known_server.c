/* A server of known timing in C, so that the server is never what a client is measured against.
 *
 * usage: known_server FIRST_US GAP_US     prints its port, serves until its standard input closes
 *
 * Streams OpenAI completion chunks in vLLM's shape, one token a chunk, one write a token. The text of a
 * token is its send time in ns on CLOCK_MONOTONIC; the first also carries the time the request was read:
 * " <received>:<sent>". GAP_US 0: one token for every stream in turn, as fast as the sockets take them.
 * Usage is sent when the request asks for it. On exit prints one JSON line to standard error: requests,
 * tokens, how late its own sends were (us: p50, p99, max), and when each request was read (ns).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTIONS 8192
#define INPUT_SIZE (4 << 20)
#define LATENESS_BINS 100000

typedef struct {
    int fd, chat, usage, num_tokens, num_sent, active;
    long long received, due;
    char *input;
    size_t input_len;
    char *pending;
    size_t pending_len;
} Connection;

static Connection connections[MAX_CONNECTIONS];
static int heap[MAX_CONNECTIONS], heap_len;
static long long first_ns, gap_ns, num_requests, num_tokens_sent;
static unsigned lateness[LATENESS_BINS];
static long long *arrivals;
static int epoll_fd, timer_fd;

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int earlier(int a, int b) { return connections[a].due < connections[b].due; }

static void heap_push(int fd) {
    int i = heap_len++;
    while (i && earlier(fd, heap[(i - 1) / 2])) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = fd;
}

static int heap_pop(void) {
    int top = heap[0], last = heap[--heap_len], i = 0;
    for (;;) {
        int child = 2 * i + 1;
        if (child >= heap_len) break;
        if (child + 1 < heap_len && earlier(heap[child + 1], heap[child])) child++;
        if (!earlier(heap[child], last)) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

static void watch(int fd, unsigned events) {
    struct epoll_event e = {.events = events, .data.fd = fd};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &e);
}

static void drop(int fd) {
    Connection *c = &connections[fd];
    free(c->input);
    free(c->pending);
    int active = c->active;
    memset(c, 0, sizeof *c);
    c->active = active ? -1 : 0; /* still in the heap: skipped when popped */
    close(fd);
}

static void put(int fd, const char *data, size_t len) {
    Connection *c = &connections[fd];
    ssize_t sent = c->pending_len ? 0 : send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) sent = 0;
    if ((size_t)sent == len) return;
    c->pending = realloc(c->pending, c->pending_len + len - sent);
    memcpy(c->pending + c->pending_len, data + sent, len - sent);
    c->pending_len += len - sent;
    watch(fd, EPOLLIN | EPOLLOUT);
}

static void flush_pending(int fd) {
    Connection *c = &connections[fd];
    ssize_t sent = send(fd, c->pending, c->pending_len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent <= 0) return;
    c->pending_len -= sent;
    memmove(c->pending, c->pending + sent, c->pending_len);
    if (!c->pending_len) watch(fd, EPOLLIN);
}

static size_t chunk(char *out, const char *event) {
    return sprintf(out, "%zx\r\n%s\r\n", strlen(event), event);
}

static void send_token(int fd) {
    Connection *c = &connections[fd];
    char event[1024], out[2048], text[64];
    long long stamp = now_ns();
    long late_us = gap_ns || c->num_sent == 0 ? (stamp - c->due) / 1000 : 0;
    lateness[late_us < 0 ? 0 : late_us >= LATENESS_BINS ? LATENESS_BINS - 1 : late_us]++;
    if (c->num_sent == 0) sprintf(text, " %lld:%lld", c->received, stamp);
    else sprintf(text, " %lld", stamp);
    c->num_sent++;
    num_tokens_sent++;
    int last = c->num_sent >= c->num_tokens;
    if (c->chat)
        sprintf(event, "data: {\"id\":\"chatcmpl-b07b367a8b167141\",\"object\":\"chat.completion.chunk\","
            "\"created\":1795221831,\"model\":\"known\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"},"
            "\"logprobs\":null,\"finish_reason\":%s,\"token_ids\":null}]}\n\n", text, last ? "\"length\"" : "null");
    else
        sprintf(event, "data: {\"id\":\"cmpl-b07b367a8b167141\",\"object\":\"text_completion\",\"created\":1795221831,"
            "\"model\":\"known\",\"choices\":[{\"index\":0,\"text\":\"%s\",\"logprobs\":null,\"finish_reason\":%s,"
            "\"stop_reason\":null,\"prompt_token_ids\":null,\"token_ids\":[%d]}]}\n\n", text,
            last ? "\"length\"" : "null", c->num_sent);
    size_t len = chunk(out, event);
    if (last) {
        if (c->usage) {
            sprintf(event, "data: {\"id\":\"cmpl-b07b367a8b167141\",\"object\":\"%s\",\"created\":1795221831,"
            "\"model\":\"known\",\"choices\":[],\"usage\":{\"prompt_tokens\":16,\"total_tokens\":%d,"
            "\"completion_tokens\":%d}}\n\n", c->chat ? "chat.completion.chunk" : "text_completion",
            16 + c->num_sent, c->num_sent);
            len += chunk(out + len, event);
        }
        len += chunk(out + len, "data: [DONE]\n\n");
        len += sprintf(out + len, "0\r\n\r\n");
        c->active = 0;
    }
    put(fd, out, len);
}

static void answer(int fd, char *head, char *body) {
    static const char stream_head[] = "HTTP/1.1 200 OK\r\nserver: known\r\n"
        "content-type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";
    Connection *c = &connections[fd];
    char out[2048];
    if (strncmp(head, "POST", 4)) {
        const char *text = "{\"object\":\"list\",\"data\":[{\"id\":\"known\",\"object\":\"model\"}]}";
        put(fd, out, sprintf(out, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            "content-length: %zu\r\n\r\n%s", strlen(text), text));
        return;
    }
    char *asked = strstr(body, "\"max_tokens\":");
    if (!asked) asked = strstr(body, "\"max_completion_tokens\":");
    c->num_tokens = asked ? atoi(strchr(asked, ':') + 1) : 16;
    c->chat = strstr(head, "/chat/") != NULL;
    c->usage = strstr(body, "\"include_usage\":true") || strstr(body, "\"include_usage\": true");
    if (!strstr(body, "\"stream\":true") && !strstr(body, "\"stream\": true")) {
        const char *text = c->chat
            ? "{\"id\":\"x\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"known\",\"choices\":[{\"index\":0,"
              "\"message\":{\"role\":\"assistant\",\"content\":\"a\"},\"finish_reason\":\"length\"}],"
              "\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1,\"total_tokens\":2}}"
            : "{\"id\":\"x\",\"object\":\"text_completion\",\"created\":1,\"model\":\"known\",\"choices\":[{\"index\":0,"
              "\"text\":\"a\",\"finish_reason\":\"length\"}],"
              "\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1,\"total_tokens\":2}}";
        put(fd, out, sprintf(out, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            "content-length: %zu\r\n\r\n%s", strlen(text), text));
        return;
    }
    c->received = now_ns();
    if (num_requests % 65536 == 0) arrivals = realloc(arrivals, (num_requests + 65536) * sizeof *arrivals);
    arrivals[num_requests++] = c->received;
    c->due = c->received + first_ns;
    c->num_sent = 0;
    c->active = 1;
    put(fd, stream_head, sizeof stream_head - 1);
    heap_push(fd);
}

static void take_input(int fd) {
    Connection *c = &connections[fd];
    if (!c->input) c->input = malloc(INPUT_SIZE);
    ssize_t got = recv(fd, c->input + c->input_len, INPUT_SIZE - 1 - c->input_len, MSG_DONTWAIT);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR)) drop(fd);
        return;
    }
    c->input_len += got;
    c->input[c->input_len] = 0;
    char *end = strstr(c->input, "\r\n\r\n");
    if (!end) return;
    char *length = strcasestr(c->input, "content-length:");
    size_t body_len = length && length < end ? atol(length + 15) : 0;
    if (c->input_len < (size_t)(end + 4 - c->input) + body_len) return;
    c->input_len = 0;
    answer(fd, c->input, end + 4);
}

static void send_due(void) {
    long long now = now_ns();
    while (heap_len && connections[heap[0]].due <= now) {
        int fd = heap_pop();
        Connection *c = &connections[fd];
        if (c->active <= 0) {
            c->active = 0;
            continue;
        }
        if (!c->pending_len) send_token(fd);
        if (c->active > 0) {
            c->due = gap_ns ? c->due + gap_ns : now_ns();
            heap_push(fd);
        }
        if (!gap_ns) break;
    }
    struct itimerspec at = {{0, 0}, {0, 0}};
    if (heap_len) {
        long long due = connections[heap[0]].due;
        at.it_value.tv_sec = due / 1000000000LL;
        at.it_value.tv_nsec = due % 1000000000LL;
    }
    if (gap_ns || !heap_len || connections[heap[0]].due > now_ns())
        timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static long percentile(double share) {
    long long total = 0, seen = 0;
    for (int i = 0; i < LATENESS_BINS; i++) total += lateness[i];
    for (int i = 0; i < LATENESS_BINS; i++)
        if ((seen += lateness[i]) >= share * total) return i;
    return LATENESS_BINS;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    first_ns = atoll(argv[1]) * 1000;
    gap_ns = atoll(argv[2]) * 1000;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    bind(listener, (struct sockaddr *)&address, size);
    listen(listener, 4096);
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    int fixed[] = {0, listener, timer_fd};
    for (int i = 0; i < 3; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fixed[i]};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fixed[i], &e);
    }
    struct epoll_event events[512];
    for (;;) {
        int busy = !gap_ns && heap_len && connections[heap[0]].due <= now_ns();
        int n = epoll_wait(epoll_fd, events, 512, busy ? 0 : -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == 0) {
                fprintf(stderr, "{\"requests\": %lld, \"tokens\": %lld, \"late_us\": [%ld, %ld, %ld], \"arrivals\": [",
                    num_requests, num_tokens_sent, percentile(.5), percentile(.99), percentile(1));
                for (long long j = 0; j < num_requests; j++) fprintf(stderr, "%s%lld", j ? "," : "", arrivals[j]);
                fprintf(stderr, "]}\n");
                return 0;
            }
            if (fd == timer_fd) {
                unsigned long long expired;
                if (read(timer_fd, &expired, 8) < 0) continue;
            } else if (fd == listener) {
                int fresh;
                while ((fresh = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                    setsockopt(fresh, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                    struct epoll_event e = {.events = EPOLLIN, .data.fd = fresh};
                    if (fresh >= MAX_CONNECTIONS || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fresh, &e)) close(fresh);
                    else connections[fresh].fd = fresh;
                }
            } else {
                if (events[i].events & EPOLLOUT) flush_pending(fd);
                if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) take_input(fd);
            }
        }
        send_due();
    }
}
