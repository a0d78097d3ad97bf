/* The limit: what streaming costs when a client does nothing but epoll, read, and stamp the clock.
 *
 * usage: limit_client PORT CONCURRENCY NUM_REQUESTS MAX_TOKENS RATE     RATE 0 = closed loop
 *
 * Prints one JSON line: CPU seconds, wall seconds, tokens, and percentiles in ms of TTFT error (its TTFT
 * minus the server's own, taken from the stamps in the text), gap error, and lateness of sends (RATE > 0).
 * Stamps are kept and compared with the text after the clock has stopped.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    long long sent, due;
    char *text;
    size_t len, size;
    long long *stamps;
    size_t *ends;
    int num_reads, max_reads;
} Answer;

static Answer *answers;
static int *current;
static int concurrency, num_requests, max_tokens, next_request, num_done, *idle, num_idle;
static double rate;
static struct sockaddr_in server;
static long long begun;

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void send_next(int fd) {
    char body[512], request[1024];
    Answer *a = &answers[next_request];
    int body_len = sprintf(body, "{\"model\":\"known\",\"prompt\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,%d],"
        "\"max_tokens\":%d,\"stream\":true}", next_request, max_tokens);
    int len = sprintf(request, "POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        "Content-Length: %d\r\n\r\n%s", body_len, body);
    a->size = (size_t)max_tokens * 400 + 4096;
    a->text = malloc(a->size);
    a->max_reads = max_tokens + 64;
    a->stamps = malloc(a->max_reads * sizeof *a->stamps);
    a->ends = malloc(a->max_reads * sizeof *a->ends);
    current[fd] = next_request++;
    a->sent = now_ns();
    if (send(fd, request, len, MSG_NOSIGNAL) != len) exit(3);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_percentiles(const char *name, double *values, int num) {
    qsort(values, num, sizeof *values, by_value);
    printf(", \"%s\": [%.4f, %.4f]", name, num ? values[num / 2] : 0, num ? values[(int)(num * .99)] : 0);
}

static void judge(void) {
    double *ttft = malloc(num_requests * sizeof *ttft), *late = malloc(num_requests * sizeof *late);
    double *gaps = malloc((size_t)num_requests * max_tokens * sizeof *gaps);
    int num_gaps = 0, num_late = 0;
    for (int i = 0; i < num_requests; i++) {
        Answer *a = &answers[i];
        char *at = a->text;
        long long seen_before = 0, sent_before = 0, received = 0;
        int read = 0;
        a->text[a->len] = 0;
        while ((at = strstr(at, "\"text\":\" "))) {
            char *end;
            long long sent = strtoll(at + 9, &end, 10);
            if (*end == ':') {
                received = sent;
                sent = strtoll(end + 1, &end, 10);
            }
            size_t offset = strstr(end, "\n\n") + 2 - a->text;
            while (a->ends[read] < offset) read++;
            long long seen = a->stamps[read];
            if (seen_before) gaps[num_gaps++] = fabs((double)((seen - seen_before) - (sent - sent_before))) / 1e6;
            else ttft[i] = ((seen - a->sent) - (sent - received)) / 1e6;
            seen_before = seen;
            sent_before = sent;
            at = end;
        }
        if (rate > 0) late[num_late++] = (a->sent - a->due) / 1e6;
    }
    print_percentiles("ttft_error_ms", ttft, num_requests);
    print_percentiles("itl_error_ms", gaps, num_gaps);
    print_percentiles("late_ms", late, num_late);
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    concurrency = atoi(argv[2]);
    num_requests = atoi(argv[3]);
    max_tokens = atoi(argv[4]);
    rate = atof(argv[5]);
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    answers = calloc(num_requests, sizeof *answers);
    current = calloc(65536, sizeof *current);
    idle = calloc(65536, sizeof *idle);
    int epoll_fd = epoll_create1(0), timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), on = 1;
    struct epoll_event e = {.events = EPOLLIN, .data.fd = timer_fd}, events[512];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &e);
    for (int i = 0; i < concurrency; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&server, sizeof server)) return 3;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        e.data.fd = fd;
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
        idle[num_idle++] = fd;
    }
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    begun = now_ns() + 1000000;
    for (int i = 0; i < num_requests; i++) answers[i].due = begun + (rate > 0 ? (long long)(i / rate * 1e9) : 0);
    if (rate > 0) {
        struct itimerspec at = {{0, 0}, {begun / 1000000000LL, begun % 1000000000LL}};
        timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
    } else
        while (num_idle && next_request < num_requests) send_next(idle[--num_idle]);
    while (num_done < num_requests) {
        int n = epoll_wait(epoll_fd, events, 512, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == timer_fd) {
                unsigned long long expired;
                if (read(timer_fd, &expired, 8) < 0) continue;
                while (next_request < num_requests && answers[next_request].due <= now_ns()) {
                    if (!num_idle) return 4;
                    send_next(idle[--num_idle]);
                }
                if (next_request < num_requests) {
                    long long due = answers[next_request].due;
                    struct itimerspec at = {{0, 0}, {due / 1000000000LL, due % 1000000000LL}};
                    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
                }
                continue;
            }
            Answer *a = &answers[current[fd]];
            ssize_t got = recv(fd, a->text + a->len, a->size - 1 - a->len, 0);
            if (got <= 0 || a->num_reads == a->max_reads) return 5;
            a->len += got;
            a->stamps[a->num_reads] = now_ns();
            a->ends[a->num_reads++] = a->len;
            if (a->len >= 5 && !memcmp(a->text + a->len - 5, "0\r\n\r\n", 5)) {
                num_done++;
                if (rate > 0) idle[num_idle++] = fd;
                else if (next_request < num_requests) send_next(fd);
            }
        }
    }
    double wall = (now_ns() - begun) / 1e9;
    getrusage(RUSAGE_SELF, &after);
    double cpu = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) + (after.ru_stime.tv_sec - before.ru_stime.tv_sec)
        + (after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_stime.tv_usec) / 1e6;
    printf("{\"cpu_s\": %.6f, \"wall_s\": %.6f, \"num_tokens\": %d", cpu, wall, num_requests * max_tokens);
    judge();
    printf("}\n");
}
