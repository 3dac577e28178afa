--- 'A' and 'a' are one value under the collation: the delete goes first and the insert is no LOAD.
-- table o: id int key, sku text:utf8mb4_0900_ai_ci unique, price decimal null
-- delete o (1, b'A', None)
-- insert o (2, b'a', None), (3, b'b', None), (4, b'c', None)

DELETE /*+ INDEX(`o` `PRIMARY`) */ FROM `o` WHERE `id` IN (1);
INSERT INTO `o` (`id`,`sku`,`price`) VALUES (2,'a',NULL),(3,'b',NULL),(4,'c',NULL);
