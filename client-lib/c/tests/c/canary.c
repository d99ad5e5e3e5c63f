/* Does what the tests must not: each of the checkers has to say so. */
#include "machine.h"

static void leak(void)
{
	/* Nothing points at it any more. */
	volatile char *volatile lost = malloc(77);

	lost[0] = 1;
	lost = NULL;
}

static void read_what_was_freed(void)
{
	volatile char *volatile freed = malloc(77);

	free((void *)freed);
	printf("%d\n", freed[3]);
}

int main(int count, char **words)
{
	if (count > 1 && strcmp(words[1], "leak") == 0)
		leak();
	else
		read_what_was_freed();
	return 0;
}
