/* The same with glibc, linked statically: its start-up is the difference. */
int main(void)
{
    return 0;
}
