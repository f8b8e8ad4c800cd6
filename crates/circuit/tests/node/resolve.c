/* Prints what a C library's resolver makes of names, and of the names of their
 * addresses: one line for each argument. */
#include <netdb.h>
#include <stdio.h>

int main(int count, char **names)
{
	for (int at = 1; at < count; at++) {
		struct addrinfo wanted = { .ai_socktype = SOCK_STREAM }, *found = 0, *one;
		int failed = getaddrinfo(names[at], 0, &wanted, &found);

		printf("%s:%s%s", names[at], failed ? " " : "", failed ? gai_strerror(failed) : "");
		for (one = found; one; one = one->ai_next) {
			char address[64], name[256];

			getnameinfo(one->ai_addr, one->ai_addrlen, address, sizeof address, 0, 0, NI_NUMERICHOST);
			failed = getnameinfo(one->ai_addr, one->ai_addrlen, name, sizeof name, 0, 0, NI_NAMEREQD);
			printf(" %s=%s", address, failed ? gai_strerror(failed) : name);
		}
		printf("\n");
	}
	return 0;
}
